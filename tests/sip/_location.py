"""A location store for nodes without sockets: right in what it does, and late as a test wants."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from tests.sip._phones import Phone, World
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import Source
from wsproto_sip.sip.edge.config import Upstream
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import (
    Binding,
    Conflict,
    Done,
    Found,
    Lookup,
    Node,
    Update,
)

_EPOCH = 1_700_000_000.0


class Location:
    """What nodes share.

    Attributes:
        records: The bindings of each address, by their names, and its version.
        stopped: Nodes that do not run any more.
    """

    def __init__(self) -> None:
        self.records: dict[str, tuple[dict[object, Binding], int]] = {}
        self.stopped: set[Node] = set()
        self._versions = count(1)

    def bindings(self, aor: str) -> list[Binding]:
        """Return the bindings of an address, those of stopped nodes too."""
        return list(self.records.get(aor, ({}, 0))[0].values())

    def ask(self, asker: Node, question: object) -> Found | Done | Conflict:
        """Answer a question of a node."""
        assert isinstance(question, Lookup | Update)
        aor = question.aor
        if isinstance(question, Lookup):
            if question.gruu:
                having = [
                    known
                    for known in self.records
                    if any(each.gruu == question.gruu for each in self.bindings(known))
                ]
                aor = having[0] if having else ""
            return self._found(asker, aor)
        found = self._found(asker, aor)
        if found.version != question.version:
            return Conflict(found)
        held: dict[object, Binding] = {each.name: each for each in self.bindings(aor)}
        for gone in question.drop:
            held.pop(gone.name, None)
        assert not {each.name for each in question.put} & set(held)
        for each in question.put:
            held[each.name] = each
        version = next(self._versions)
        self.records[aor] = held, version
        return Done(version)

    def _found(self, asker: Node, aor: str) -> Found:
        held, version = self.records.get(aor, ({}, 0))
        # What a connection is called at another node means nothing here.
        seen = [each if each.node == asker else replace(each, flow=None) for each in held.values()]
        return Found(
            aor,
            tuple([each for each in seen if each.node not in self.stopped]),
            version,
            tuple([each for each in seen if each.node in self.stopped]),
        )


class NodeWorld(World):
    """One node, with its telephones."""

    def __init__(self, name: str = "one", first: int = 1, **options: ShareConfig) -> None:
        self.node = Node(name, "1")
        registrar = Registrar(
            RegistrarConfig(Domains(("sip.test",)), min_expires=10, max_contacts=4),
            node=self.node,
        )
        registrar.epoch = _EPOCH
        self.registrar = registrar
        super().__init__(registrar=registrar, **options)  # type: ignore[arg-type]
        self.numbers = count(first)

    def obey(self, location: Location) -> list[object]:
        """Have a location store answer what is asked; returns the questions."""
        asked = []
        while self.questions:
            number = next(iter(self.questions))
            asked.append(self.questions[number])
            self.answer(location.ask(self.node, asked[-1]), number)
        return asked

    def held(self, aor: str) -> dict[object, Binding]:
        """Return the bindings of an address in memory that are not expired."""
        wall = self.registrar.wall(self.now)
        return {each.name: each for each in self.registrar.store.get(aor) if each.expires_at > wall}


class Cluster:
    """Nodes that share a location store, with links between all of them.

    Everything that is sent arrives at once, in its order, unless a test holds it back.
    """

    def __init__(self, *names: str, **options: ShareConfig) -> None:
        self.location = Location()
        self.worlds = {
            name: NodeWorld(name, 1 + 100 * index, **options) for index, name in enumerate(names)
        }
        for name in names:
            self.introduce(name, *names)

    def introduce(self, name: str, *names: str) -> None:
        """Tell a node which nodes run."""
        self.worlds[name].edge.use_nodes(
            [self.seen(other, name) for other in names if other != name]
        )

    @staticmethod
    def seen(name: str, by: str) -> Upstream:
        """Return a node as another one sees it."""
        return Upstream(name, f"{name}.test", 5070, f"{by}.test", 5070, "tcp", is_node=True)

    def run(self) -> None:
        """Have the store answer and the links deliver, until nothing is on its way."""
        busy = True
        while busy:
            busy = False
            for name, world in self.worlds.items():
                busy |= bool(world.obey(self.location))
                sent, world.all_sent = world.all_sent, []
                world.upstream.clear()
                for target, message in sent:
                    busy = True
                    if target in self.worlds:
                        self.worlds[target].from_upstream(
                            message, upstream=name, link=2, source=Source("192.0.2.9", 5070, "tcp")
                        )
                    else:
                        world.do(world.edge.upstream_failed(world.now, upstream=target))

    def wait(self, seconds: float) -> None:
        """Let time pass at all nodes."""
        for world in self.worlds.values():
            world.wait(seconds)
        self.run()

    def stop(self, name: str) -> None:
        """Kill a node; the others learn of it when a link fails."""
        world = self.worlds.pop(name)
        self.location.stopped.add(world.node)

    def phone(self, name: str, user: str, **options: object) -> Phone:
        """Return a telephone that is registered at a node."""
        phone = Phone(self.worlds[name], user, registers=False, **options)  # type: ignore[arg-type]
        fields = phone.registration(expires=300)
        phone.send("REGISTER", "sip:sip.test", *fields, to=f"<{phone.aor}>")
        self.run()
        phone.response(200)
        return phone
