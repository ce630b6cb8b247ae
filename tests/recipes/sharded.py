"""Run by torchrun: a recipe with its model sharded by FSDP2 on CPU processes.

torchrun --nproc_per_node 2 sharded.py RECIPE WRAPPED_CLASS FLAG ...
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from in_process import launch  # noqa: E402
from sharded_worker import shard  # noqa: E402

from fm_med import distributed  # noqa: E402

# Accelerate shards on GPUs only: see `shard`.
make, (recipe, wrapped, *flags) = distributed.accelerator, sys.argv[1:]
distributed.accelerator = lambda **options: shard(
    make(**options),
    auto_wrap_policy="TRANSFORMER_BASED_WRAP",
    transformer_cls_names_to_wrap=[wrapped],
)
sys.exit(launch(recipe, *flags))
