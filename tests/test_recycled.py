import threading

import pytest
import torch

from fm_med.recycled import Recycled

LARGE = (64, 12, 1000)


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def test_memory_is_used_again_once_nothing_refers_to_it():
    memory = Recycled()
    first = memory.empty(*LARGE)
    where = place(first)
    assert first.shape == LARGE and first.dtype == torch.float32 and where % 64 == 0
    assert place(memory.empty(*LARGE)) != where
    del first
    assert place(memory.empty(*LARGE)) == where
    assert place(memory.empty(63, 12, 1000)) == where  # the last batch of an epoch is smaller


@pytest.mark.parametrize(
    "hold",
    [
        lambda batch: batch[3, 2, 5:],
        lambda batch: batch.numpy()[1:],
        lambda batch: batch.detach(),
        lambda batch: {"nested": [batch.view(-1).unfold(0, 5, 1)]},
        lambda batch: (batch * torch.ones(1, requires_grad=True)).sum(),  # keeps its factor
        lambda batch: torch.utils.data.TensorDataset(batch),
    ],
    ids=["view", "numpy", "detached", "nested", "graph", "dataset"],
)
def test_memory_that_anything_refers_to_is_not_used_again(hold):
    memory = Recycled()
    batch = memory.empty(*LARGE)
    where, held = place(batch), hold(batch)
    del batch
    assert place(memory.empty(*LARGE)) != where
    del held
    assert place(memory.empty(*LARGE)) == where


def test_gradients_are_those_of_the_batch_that_was_seen():
    memory, weight = Recycled(), torch.ones(1000, requires_grad=True)
    batch = memory.empty(*LARGE).fill_(2.0)
    loss = (batch * weight).sum()
    del batch
    memory.empty(*LARGE).fill_(7.0)
    loss.backward()
    assert (weight.grad == 2.0 * 64 * 12).all()


def test_few_blocks_are_kept_and_a_larger_need_replaces_one():
    memory = Recycled()
    held = [memory.empty(*LARGE) for _ in range(6)]
    assert len({place(tensor) for tensor in held}) == 6 and len(memory._blocks) == 4
    del held
    large = memory.empty(256, 12, 1000)
    assert len(memory._blocks) == 4 and max(block.size for block in memory._blocks) == large.numel()


def test_small_tensors_are_ordinary():
    memory = Recycled()
    assert memory.empty(2, 3).shape == (2, 3) and memory.empty(0, 12, 5).numel() == 0
    assert not memory._blocks


def test_threads_never_share_memory():
    memory, wrong = Recycled(), []

    def work(number):
        for _ in range(200):
            tensor = memory.empty(600, 500)
            tensor[::100] = number
            if not (tensor[::100] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
