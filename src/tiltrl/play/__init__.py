"""A policy at play: a clip of an episode, with rewards and how unusual its actions are drawn below the picture."""

from tiltrl.play.clip import Clip, record

__all__ = ["Clip", "record"]
