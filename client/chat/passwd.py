"""`/passwd`: another password, asked for without being shown."""

import hmac

from client.chat.command import UsageError
from client.chat.model import Kind
from client.chat.person import Chat


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(*(text.encode("utf-8", "surrogatepass") for text in (one, other)))


async def passwd(chat: Chat) -> None:
    """Change the password of who is logged in, who has to know it. UsageError."""
    if not chat.asks:
        raise UsageError(
            "/passwd asks at a terminal: `tradechat-cli passwd` reads the password from its input"
        )
    if chat.model.active.kind is Kind.BOARD:
        raise UsageError("this is a board, where keys are commands: q goes to its room")
    if not _same(await chat.face.ask("Password: ", hidden=True), chat.password):
        raise UsageError("that is not your password: nothing was changed")
    new = await chat.face.ask("New password: ", hidden=True)
    if not new:
        chat.face.remark("no password was given: nothing was changed")
        return
    if not _same(new, await chat.face.ask("The same again: ", hidden=True)):
        raise UsageError("these were not the same: nothing was changed")
    await chat.lasting(lambda: chat.client.change_password(new))
    chat.password = new
    chat.face.result(["the password is changed; all other sessions have ended"])
