"""Pipelines of `tf.data`, looked into: what is known of going on in them, and copies that begin anew."""

from trainlab.data.pipelines.copies import copied, first_of, interleaved_as
from trainlab.data.pipelines.nature import Nature, moves_on, nature_of

__all__ = ["Nature", "copied", "first_of", "interleaved_as", "moves_on", "nature_of"]
