"""The errors that zeroloop raises on purpose: what, where, the value, what is allowed, what to do.

ZeroloopError
├── ConfigError          a key or value of the configuration
├── GameError            the rules of a game
│   ├── IllegalAction    an action that the state does not allow
│   ├── InvalidState     a position text or state that the game does not know
│   └── LawBroken        a game that breaks a law of the contract
├── PlayerError          an opponent or engine; its match is void
├── BackendError         an inference backend that fails or is absent
├── StoreError           stored bytes: a damaged model, checkpoint or episode; a full disk
│   ├── BusyError        a registry that another process holds; it is free again in a while
│   ├── UnreachableError a store or server that does not answer; it may come back
│   └── RefusedError     a worker, game or model turned away at the door; the reason is named
└── ResumeError          a run directory that cannot go on: another game, changed rules, in use
"""


class ZeroloopError(Exception):
    """Base of every error that zeroloop raises on purpose."""


class ConfigError(ZeroloopError):
    """A key or value of the configuration is unknown or out of range."""


class GameError(ZeroloopError):
    """The rules of a game are at fault."""


class IllegalAction(GameError):
    """The state does not allow this action."""


class InvalidState(GameError):
    """A position text or a state that the game does not know."""


class LawBroken(GameError):
    """A game breaks a law of the contract; the message names the seed and the ply."""


class PlayerError(ZeroloopError):
    """A player failed; its match is void and no move was substituted."""


class BackendError(ZeroloopError):
    """An inference backend is absent, fails, or breaks a promise it made."""


class LearningError(ZeroloopError):
    """Training has gone wrong: a loss that is not finite."""


class StoreError(ZeroloopError):
    """Stored bytes are damaged, or could not be written."""


class BusyError(StoreError):
    """Another process holds the registry; the same change may be tried again."""


class UnreachableError(StoreError):
    """A store or server does not answer; what was asked may be asked again."""


class RefusedError(StoreError):
    """A worker, a game or a request was turned away at the door, and nothing of it was stored."""


class ResumeError(ZeroloopError):
    """A run directory cannot go on: another game, changed rules, or in use by another process."""
