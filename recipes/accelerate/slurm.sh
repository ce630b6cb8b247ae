#!/bin/bash
# Two machines with four GPUs each under Slurm:  sbatch recipes/accelerate/slurm.sh
# A job that was cut off (time limit, preemption) is put back into the queue and goes on with
# --resume, bit for bit. Change the #SBATCH lines and the paths below to your site.
#SBATCH --job-name=ecg-pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

GPUS_PER_NODE=4
OUTPUT=runs/ptbxl  # in a folder that all machines share
RESUME=""
if [ -f "$OUTPUT/config.yaml" ]; then RESUME="--resume"; fi

MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# One launcher per machine; SLURM_NODEID differs, so it is read there and not here.
# shellcheck disable=SC2016
srun bash -c 'accelerate launch --config_file recipes/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * '"$GPUS_PER_NODE"'))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip '"$MAIN"' --main_process_port 29500 \
    recipes/ecg_pretrain.py --cohort cohorts/ptbxl \
    --text_encoder emilyalsentzer/Bio_ClinicalBERT --output '"$OUTPUT $RESUME"
