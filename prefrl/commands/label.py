"""`prefrl label`: the page on which people answer, and who has a link to it."""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from prefrl.commands.console import RunOrAddress, say
from prefrl.config.fields import Port
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.storage.folder import RunFolder
    from prefrl.storage.links import Links
    from prefrl.viewer.outside import Outside
    from prefrl.viewer.server import Opened


@dataclass(frozen=True)
class Label:
    """RUN: open the page on which people answer, while the run trains or not."""

    run: RunOrAddress
    """The run folder, or postgresql://HOST/DATABASE#NAME, on any machine."""
    name: str = ""
    """Who answers; the page asks otherwise."""
    port: Port | None = None
    """Port to listen on; the one it had before, or the first free one from 8765, by default."""
    host: str = ""
    """Address to listen on: 127.0.0.1 (this machine alone), 0.0.0.0 (every network that it is
    in, as inside a container) or another one; the one it had before by default."""
    allow_host: tuple[str, ...] = ()
    """Further host names under which a proxy of yours may ask for the page."""
    root_path: str = ""
    """Path below which a proxy serves the page, such as /user/ana/proxy/8765; / for none; the one
    it had before by default."""
    public_address: str = ""
    """Where a proxy serves the page, https://labels.example.org with or without a path, if not on
    this machine; none for no proxy; the one it had before by default."""
    instructions: str = ""
    """What people should know beyond the question, from now on: sentences, or a file of them, one
    a line."""
    link: str = ""
    """Make a link of somebody's own, and print it, instead of opening the page: what is answered
    with it carries this name, and it shows nothing but what is to be answered and what was."""
    admin: bool = False
    """Let that link show all that the printed address shows: rewards, predictions, others'
    answers."""
    pause: str = ""
    """Refuse whoever has this person's link, until --unpause; their answers stay."""
    unpause: str = ""
    """Let this person go on."""
    withdraw: str = ""
    """Refuse whoever has this person's link, for good; their answers stay."""
    links: bool = False
    """List who has a link, and how they answer."""
    gold: Annotated[Path | None, arg(metavar="FILE")] = None
    """Make gold questions of the answers in a file, of an oracle or of somebody who is trusted, as
    `prefrl export` prints them: --query.gold-share of what people are asked, to measure them."""
    ungold: Annotated[str, arg(metavar="QUERY")] = ""
    """Let a query be no gold question any more, ROUND-INDEX, as the admins' page names it."""


def label(chosen: Label) -> None:
    """Serve a run's page until interrupted, or say who may open it."""
    actions = ("link", "pause", "unpause", "withdraw", "links", "gold", "ungold")
    asked = [name for name in actions if getattr(chosen, name)]
    if len(asked) > 1:
        given = " and ".join(f"--{name}" for name in asked)
        raise UserError(f"{given} are given; expected one of them at a time")
    if chosen.admin and not chosen.link:
        raise UserError("--admin says what a link shows; give it with --link NAME")

    from prefrl.storage.instructions import read_instructions
    from prefrl.storage.shared import opened
    from prefrl.viewer.outside import read_outside

    with opened(chosen.run) as folder:
        outside = read_outside(folder.viewer(), chosen.public_address, chosen.root_path)
        if chosen.instructions:
            told = read_instructions(chosen.instructions)
            folder.save_viewer(folder.viewer() | {"instructions": told})
        if chosen.gold or chosen.ungold:
            _change_gold(chosen, folder)
        elif asked:
            _change_links(chosen, folder, outside)
        else:
            _serve(chosen, folder, outside)


def _serve(chosen: Label, folder: "RunFolder", outside: "Outside") -> None:
    from prefrl.viewer.addresses import is_wide
    from prefrl.viewer.server import serve

    before = folder.viewer()["port"]

    def announce(page: "Opened") -> None:
        if before not in (None, page.port) and chosen.port is None:
            say(f"port {before}, where the page was before, is taken by another program")
        say(f"answer at {page.address}")
        if is_wide(page.host):
            say(
                f"it listens on {page.host}: open it from elsewhere under this machine's own "
                "address; whoever has the token may answer, and nothing is encrypted on the way"
            )
        elif "SSH_CONNECTION" in os.environ and not outside.origin:
            say(f"from elsewhere: ssh -L {page.port}:127.0.0.1:{page.port} THIS-MACHINE")

    serve(folder, chosen.name, chosen.port, chosen.allow_host, chosen.host, announce, outside)


def _change_gold(chosen: Label, folder: "RunFolder") -> None:
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.gold import unmark
    from prefrl.storage.gold_files import Asks, import_gold
    from prefrl.storage.labelling import Ticket

    with closing(FeedbackStore(folder.feedback)) as store:
        if chosen.gold is None:
            unmark(store, Ticket.parse(chosen.ungold).query)
            say(f"{chosen.ungold} is no gold question any more; answers to it stay what they are")
            return
        experiment, card = folder.experiment(), folder.card()
        query = experiment.query
        asks = Asks(dict(card.aspects) or {"": card.question}, query.kind, query.size)
        chat = True if card.is_text and experiment.text.chat else None
        done = import_gold(store, chosen.gold, asks, card.spaces, chat)
        say(f"gold questions made: {done.marked}")
        if done.known:
            say(f"note: queries that were gold already: {done.known}")
        for note in done.notes:
            say(note)
        if not query.gold_share:
            say("note: nobody is asked them, as --query.gold-share of this run is 0")


def _change_links(chosen: Label, folder: "RunFolder", outside: "Outside") -> None:
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.links import Links

    with closing(FeedbackStore(folder.feedback)) as store:
        links = Links(folder, store)
        if chosen.link:
            _make_link(chosen, folder, outside, links)
        elif chosen.withdraw:
            links.change(chosen.withdraw, "withdrawn")
            say(f"{chosen.withdraw}'s link opens nothing any more; their answers stay")
        elif chosen.pause:
            links.change(chosen.pause, "paused")
            say(f"{chosen.pause}'s link waits for --unpause; their answers stay")
        elif chosen.unpause:
            links.change(chosen.unpause, "open")
            say(f"{chosen.unpause}'s link opens the page again")
        else:
            from prefrl.reports.links import in_words

            say(*in_words(links.all(), store))


def _make_link(chosen: Label, folder: "RunFolder", outside: "Outside", links: "Links") -> None:
    from prefrl.viewer.addresses import HERE, listen
    from prefrl.viewer.outside import outside_of

    kept = folder.viewer()
    host, port = chosen.host or kept.get("host", HERE), chosen.port or kept["port"]
    if not port:  # the page was never open: it will be there
        with listen(host, None, None) as free:
            port = free.getsockname()[1]
    token = links.make(chosen.link, chosen.admin)
    if kept["port"] is None or outside != outside_of(kept):
        folder.save_viewer(kept | {"port": port, "host": host, "outside": list(outside)})
    say(f"{chosen.link} answers at {outside.address(host, port)}#token={token}")
    say(
        f"it is shown this once; `prefrl label RUN --withdraw {quote(chosen.link)}` ends it, and "
        "`prefrl label RUN` opens the page if it is not open"
    )
