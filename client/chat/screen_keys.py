"""The keys of the screen."""

from collections.abc import Callable
from functools import partial

from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from client.chat.ends import Interrupted
from client.chat.screen import ChatScreen

_ALL = 1_000_000_000  # rows, more than there are


def bindings(screen: ChatScreen) -> KeyBindings:
    """What the keys do, beside those that edit a line."""
    keys = KeyBindings()
    _add_editing(keys, screen)
    _add_looking(keys, screen)
    _add_ending(keys, screen)
    _add_board(keys, screen)
    return keys


def _add_editing(keys: KeyBindings, screen: ChatScreen) -> None:
    @keys.add("enter", filter=Condition(lambda: screen.app.layout.has_focus(screen.input)))
    def send(_: KeyPressEvent) -> None:
        typed = screen.input
        completing = typed.complete_state
        if completing is not None and completing.current_completion is not None:
            typed.complete_state = None  # it is taken
            return
        text = typed.text
        if screen.face.answer is not None:
            if not screen.face.answer.done():
                screen.face.answer.set_result(text)
            typed.reset()
            return
        if not text.strip():
            return
        screen.help = None
        typed.append_to_history()
        typed.reset()
        screen.worker.put(text)

    is_question = Condition(lambda: bool(screen.face.question))

    @keys.add("c-r", filter=is_question)
    @keys.add("c-s", filter=is_question)
    def no_search(_: KeyPressEvent) -> None:
        """What was typed before answers no question."""

    @keys.add("escape", "enter")
    def another_row(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste)
    def paste(event: KeyPressEvent) -> None:
        """Several lines stay several; what ends the last one sends nothing by itself."""
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(text.rstrip("\n"))


def _add_looking(keys: KeyBindings, screen: ChatScreen) -> None:
    model = screen.chat.model

    actions: dict[tuple[str, ...], Callable[[], object]] = {
        ("pageup",): lambda: screen.scroll(screen.page_size()),
        ("pagedown",): lambda: screen.scroll(-screen.page_size()),
        ("c-home",): lambda: screen.scroll(_ALL),
        ("c-end",): lambda: screen.scroll(-_ALL),
        ("c-n",): lambda: screen.switch(model.beside(1)),
        ("c-p",): lambda: screen.switch(model.beside(-1)),
        ("escape", "a"): lambda: screen.switch(model.next_unread()),
        ("f1",): screen.help_or_back,
        ("f2",): screen.fold_rooms,
        ("f3",): screen.fold_members,
    }
    for digit in range(1, 10):
        actions["escape", str(digit)] = partial(_go_to, screen, digit - 1)
    for names, action in actions.items():
        keys.add(*names)(partial(_do, action))


def _add_board(keys: KeyBindings, screen: ChatScreen) -> None:
    """While a board is looked at and nothing is typed, keys are not text; while it asks, they are
    an answer or nothing."""
    board = screen.board_keys
    is_list = Condition(
        lambda: (
            board.is_list
            and screen.help is None
            and not screen.input.text
            and not screen.is_searching
        )
    )
    is_asking = Condition(lambda: board.is_asking)

    @keys.add(Keys.Any, filter=is_asking)
    @keys.add("enter", filter=is_asking)
    @keys.add("escape", filter=is_asking)
    @keys.add("up", filter=is_asking)
    @keys.add("down", filter=is_asking)
    @keys.add(Keys.BracketedPaste, filter=is_asking)
    def answer(event: KeyPressEvent) -> None:
        key = event.key_sequence[0].key
        board.answer(key.value if isinstance(key, Keys) else key)

    @keys.add(Keys.Any, filter=is_list)
    @keys.add("enter", filter=is_list)
    @keys.add(Keys.BracketedPaste, filter=is_list)
    def nothing(_: KeyPressEvent) -> None:
        """It is no text here."""

    @keys.add("/", filter=is_list)
    def find(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("/board find ")

    actions: dict[str, Callable[[], object]] = {
        "up": lambda: screen.scroll(1),
        "down": lambda: screen.scroll(-1),
        "t": board.take,
        "d": board.drop,
        "q": board.leave,
        "escape": board.leave,
    }
    for name, action in actions.items():
        keys.add(name, filter=is_list)(partial(_do, action))


def _do(action: Callable[[], object], _: KeyPressEvent) -> None:
    action()


def _go_to(screen: ChatScreen, place: int) -> None:
    buffers = screen.chat.model.buffers
    if place < len(buffers):
        screen.switch(buffers[place])


def _add_ending(keys: KeyBindings, screen: ChatScreen) -> None:
    @keys.add("c-c", eager=True)
    @keys.add("<sigint>")
    def drop_or_end(event: KeyPressEvent) -> None:
        """As in a shell: drop what was typed; on an empty line give up what waits, or end."""
        if screen.is_searching:
            screen.end_search()
        elif screen.face.answer is not None:
            if not screen.face.answer.done():
                screen.face.answer.set_result("")
        elif screen.input.text:
            screen.input.reset()
        elif screen.worker.is_busy:
            screen.input.insert_text(screen.worker.give_up())
        else:
            event.app.exit(exception=Interrupted())

    @keys.add("c-d", filter=Condition(lambda: not (screen.input.text or screen.is_searching)))
    def end(event: KeyPressEvent) -> None:
        event.app.exit()

    @keys.add("c-z")
    def stop(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()
