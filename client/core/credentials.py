"""As whom a client logs in, if the call does not say so."""

from dataclasses import dataclass, field

from client.core import arguments
from client.core.address import Address
from client.errors import BadArgument


@dataclass(frozen=True, slots=True)
class Credentials:
    """A username and its password, of which either may be missing."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def complete(self) -> bool:
        """Whether a client can log in with them."""
        return self.username is not None and self.password is not None

    def filled(self, username: str | None, password: str | None) -> tuple[str, str]:
        """What a login takes, where the call gave this. BadArgument if it is not all there. The
        password is that of its user: it is not taken for another one."""
        if username is None:
            username = self.username
        if username is None:
            raise BadArgument("username", None, "a username, as the client was given none")
        arguments.username(username)
        if password is None and username == self.username:
            password = self.password
        if password is None:
            raise BadArgument("password", None, "the password, as the client was given none")
        arguments.text("password", password, secret=True)
        return username, password


def credentials(username: str | None, password: str | None, address: Address) -> Credentials:
    """What the arguments of a client say, and the URL where they do not. BadArgument."""
    if username is not None:
        arguments.username(username)
    if password is not None:
        arguments.text("password", password, secret=True)
    if username is None or username == address.username:
        username = address.username
        password = address.password if password is None else password
    if password is not None and username is None:
        raise BadArgument("username", None, "a username, as there is a password")
    return Credentials(username, password)
