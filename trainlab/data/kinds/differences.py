"""Why data may give other batches when they are read again than they gave before, in words."""

ELSE = "goes on in another order than it would have"
OTHER_SEEDS = "its shuffles have other seeds than before: give them seeds, or call keras.utils.set_random_seed before it is made"
NO_ORDER = "the checkpoint is of an older version, which did not keep the order of its batches"
MOVED_ON = (
    "it was read before in this process, and what it draws from has moved on (make it anew, or give it a get_state() and a "
    "set_state(state))"
)
CUT_SHORT = "a pass before this one ended within the data, and nobody knows how far those had been read ahead"
NOT_THE_SAME = "it is not the same, or draws from something that is not"
