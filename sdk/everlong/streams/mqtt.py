"""`Mqtt` and `MqttSink`: by MQTT 5, from what a broker keeps for a session, and to a broker. Extra
`everlong[mqtt]`.

The broker keeps what is published for a session at QoS 1 until it is acknowledged, also while
nobody is connected, and forgets it then: see `_forgetful`.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar, overload
from urllib.parse import unquote, urlsplit

import anyio.to_thread
from paho.mqtt.client import Client, MQTTMessage, MQTTv5, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._forgetful import ForgetfulReader, check_prefetch, require_whole
from everlong.streams._polled import PARTITION
from everlong.streams._source import Cursor, Reader, Record, Source, require_same

__all__ = ["Mqtt", "MqttSink"]

T = TypeVar("T")

_ANSWER_S: Final = 10.0
_MISC_S: Final = 1.0
_KEEPALIVE_S: Final = 30
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_EXPIRY_MAX_S: Final = 0xFFFF_FFFF
_PACKET_MAX: Final = 0x0FFF_FFFF
"""That the protocol knows."""
_AROUND: Final = 9
"""Bytes of a packet beside topic, properties and value."""
_REFUSALS: Final = frozenset({0x90, 0x95, 0x99})
"""Topic Name invalid, Packet too large, Payload format invalid: what no repetition changes."""
_client: Final[Any] = Client  # Some of it carries no types.
_properties: Final[Any] = Properties
_OK: Final = MQTTErrorCode.MQTT_ERR_SUCCESS


class Mqtt(Source[T], Generic[T]):
    """The messages that a broker keeps for a session, in the order in which it sends them.

        orders = Stream("orders", Mqtt("mqtt://localhost", "orders/#", Order, session="orders"))

    The broker forgets what is acknowledged, and that is what the flow has stored. MQTT gives
    messages no identity. If publishers give them one, as a user property of MQTT 5, a message that
    is sent again is known by it, and dropped. A message's key is its topic.

    What people get wrong: messages without such an id may come twice after a crash; those that are
    published at QoS 0 are lost while nobody is connected; and what a broker keeps for who is away
    has a bound (mosquitto: `max_queued_messages`, 1,000), beyond which it drops in silence. What is
    retained from before the first subscription is not read.

    Args:
        url: "mqtt://user:password@host:port", or "mqtts://…" for TLS.
        topic: what is subscribed to, `+` and `#` as MQTT has them.
        value: the type of its messages' values, see `Source`.
        session: the client's id, under which the broker keeps messages. Each flow needs its own:
            of two with the same one, each cuts the other's connection.
        expiry: seconds that the broker keeps the session while nobody is connected; 7 days unless
            given. Behind that the flow stops with `StreamRewound`.
        id_property: the name of the user property that is the message's id.
        prefetch: so many messages may be on their way to the flow, or in its batches, before they
            are stored, 1 to 10,000. Marks of twice as many are part of every position: 16 bytes
            for each.
        tls: for "mqtts", arguments of paho's `tls_set`, such as `ca_certs`.
    """

    forgets = True

    @overload
    def __init__(
        self: "Mqtt[bytes]",
        url: str,
        topic: str,
        *,
        session: str,
        expiry: float = 604_800,
        id_property: str = "message_id",
        prefetch: int = 100,
        tls: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        topic: str,
        value: type[T],
        *,
        session: str,
        expiry: float = 604_800,
        id_property: str = "message_id",
        prefetch: int = 100,
        tls: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Mqtt[Any]",
        url: str,
        topic: str,
        value: Any,
        *,
        session: str,
        expiry: float = 604_800,
        id_property: str = "message_id",
        prefetch: int = 100,
        tls: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        topic: str,
        value: Any = bytes,
        *,
        session: str,
        expiry: float = 604_800,
        id_property: str = "message_id",
        prefetch: int = 100,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.place = urlsplit(url)
        if self.place.scheme not in _PORTS or not self.place.hostname:
            raise InvalidArguments("Mqtt reads from mqtt://host:port or mqtts://host:port")
        if not session:
            raise InvalidArguments("session='': the broker keeps nothing for who has no name")
        if not 1 <= expiry <= _EXPIRY_MAX_S:
            raise InvalidArguments(f"expiry={expiry}: give seconds, 1 to {_EXPIRY_MAX_S:,}")
        self.topic, self.session, self.expiry_s = topic, session, int(expiry)
        self.id_property, self.prefetch = id_property, check_prefetch(prefetch)
        self.tls = dict(tls or {})

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader of what nobody has acknowledged.

        Raises:
            StreamRewound: the broker has forgotten the session. It has a new one by then, so that
                nothing more is lost: resume the flow if it may go on.
        """
        require_whole(partitions, self)
        identity = f"mqtt {self.session} {self.topic}"
        require_same(identity, after, f"session {self.session} of MQTT")
        link = _Link(self, self.session)
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self.expiry_s
        properties.ReceiveMaximum = self.prefetch
        try:
            was_there = await link.connect(properties, anew=False)
            await link.subscribe(self.topic)
            if after is not None and not was_there:
                raise StreamRewound(
                    f"{self!r}: the broker knows the session no more, and what was published since "
                    "it was lost does not come. It has a new one now: resume the flow to go on"
                )
        except BaseException:
            await link.close()
            raise
        return _MqttReader(self, link, identity, after)

    def __repr__(self) -> str:
        return f"Mqtt({self.topic!r}, session={self.session!r})"  # The URL may hold a password.


class _Link:
    """One connection, driven by the event loop: what came, and was not taken yet."""

    def __init__(self, owner: "Mqtt[Any] | MqttSink", session: str) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._more = asyncio.Event()
        self._fault: str | None = None
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._misc: asyncio.TimerHandle | None = None
        self._socket: Any = None
        self.came: deque[MQTTMessage] = deque()
        self.packet_max = _PACKET_MAX
        self._client = client = _client(
            CallbackAPIVersion.VERSION2,
            client_id=session,
            protocol=MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        place = owner.place
        if place.username is not None:
            password = None if place.password is None else unquote(place.password)
            client.username_pw_set(unquote(place.username), password)
        if place.scheme == "mqtts":
            client.tls_set(**owner.tls)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._take
        client.on_publish = self._has_published
        client.on_disconnect = self._disconnected

    async def connect(self, properties: Any, *, anew: bool) -> bool:
        """Whether the broker has known the session. Raises ConnectionError."""
        place = self._owner.place
        port = place.port or _PORTS[place.scheme]

        def call() -> MQTTErrorCode:
            told: MQTTErrorCode = self._client.connect(
                str(place.hostname), port, _KEEPALIVE_S, clean_start=anew, properties=properties
            )
            return told

        self._require(await anyio.to_thread.run_sync(call))
        self._socket = self._client.socket()
        self._loop.add_reader(self._socket, self._read)
        self._keep_going()
        was_there, reason, told = await self._answer("connect")
        self.packet_max = getattr(told, "MaximumPacketSize", _PACKET_MAX)
        if reason.is_failure:
            raise ConnectionError(f"{self._owner!r}: the broker refuses it: {reason}")
        return bool(was_there)

    async def subscribe(self, topic: str) -> None:
        only_new = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        self._require(self._client.subscribe(topic, options=only_new)[0])
        for reason in await self._answer("subscribe"):
            if reason.is_failure:
                raise ConnectionError(f"{self._owner!r}: it may not subscribe: {reason}")

    def _require(self, code: MQTTErrorCode) -> None:
        if code != _OK:
            raise ConnectionError(f"{self._owner!r}: {error_string(code)}")

    async def _answer(self, what: str) -> Any:
        answer = self._answers[what] = self._loop.create_future()
        if self._fault is not None:
            raise ConnectionError(f"{self._owner!r}: {self._fault}")
        async with asyncio.timeout(_ANSWER_S):
            return await answer

    # ------------------------------------------------------------------ what paho calls, and when

    def _read(self) -> None:
        self._ends_with(self._client.loop_read())
        # A socket with TLS may hold what the event loop cannot see.
        while self._fault is None and getattr(self._socket, "pending", int)():
            self._ends_with(self._client.loop_read())

    def _keep_going(self) -> None:
        self._misc = self._loop.call_later(_MISC_S, self._keep_going)
        self._ends_with(self._client.loop_misc())
        if self._fault is None and self._client.want_write():
            self._ends_with(self._client.loop_write())

    def _ends_with(self, code: MQTTErrorCode) -> None:
        if code != _OK:
            self._end(error_string(code))

    def _connected(self, _: Any, __: Any, flags: Any, reason: Any, told: Any) -> None:
        self._tell("connect", (flags.session_present, reason, told))

    def _subscribed(self, _: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
        self._tell("subscribe", reasons)

    def _has_published(self, _: Any, __: Any, packet: int, reason: Any, ___: Any) -> None:
        self._tell(f"publish {packet}", reason)

    def _tell(self, what: str, answer: Any) -> None:
        waits = self._answers.pop(what, None)
        if waits is not None and not waits.done():
            waits.set_result(answer)

    def _take(self, _: Any, __: Any, message: MQTTMessage) -> None:
        self.came.append(message)
        self._more.set()

    def _disconnected(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self._end(f"the connection has ended: {reason}")

    def _end(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._let_go()
        self._more.set()
        for waits in self._answers.values():
            if not waits.done():
                waits.set_exception(ConnectionError(f"{self._owner!r}: {self._fault}"))
        self._answers.clear()

    def _let_go(self) -> None:
        if self._misc is not None:
            self._misc.cancel()
        if self._socket is not None:
            with suppress(ValueError, OSError):  # It is closed already.
                self._loop.remove_reader(self._socket)
            self._socket = None

    # ---------------------------------------------------------------------------- for the reader

    async def some(self, until: float | None) -> bool:
        """Whether something came, by that moment. Raises ConnectionError."""
        try:
            async with asyncio.timeout_at(until):
                while not self.came:
                    if self._fault is not None:
                        raise ConnectionError(f"{self._owner!r}: {self._fault}")
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            return bool(self.came)
        return True

    def publish(
        self, topic: str, value: bytes, properties: Any, *, retain: bool
    ) -> "asyncio.Future[Any]":
        """What the broker answers, later. Raises ConnectionError."""
        told = self._client.publish(topic, value, 1, retain, properties)
        self._require(told.rc)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._answers[f"publish {told.mid}"] = answer
        return answer

    def acknowledge(self, packet: int) -> None:
        """Raises ConnectionError."""
        self._require(self._client.ack(packet, 1))

    async def close(self) -> None:
        self._client.disconnect()  # The session stays. Not connected, it says so, and that is fine.
        self._end("it is closed")


class _MqttReader(ForgetfulReader):
    def __init__(self, source: Mqtt[Any], link: _Link, identity: str, after: Cursor | None) -> None:
        super().__init__(identity, after, source.prefetch, source)
        self._source = source
        self._link = link

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        until = None if wait_s is None else asyncio.get_running_loop().time() + wait_s
        came, found, size = self._link.came, list[Record](), 0
        while not found and await self._link.some(until):
            while came and len(found) < max_messages and size < max_bytes:
                message = came.popleft()
                told: Any = message.properties
                headers: dict[str, str] = dict(getattr(told, "UserProperty", ()))
                position = self.position_of(headers.get(self._source.id_property), message.mid)
                if position is not None:
                    found.append(_record(message, position, headers))
                    size += len(message.payload)
                elif message.qos:
                    self._link.acknowledge(message.mid)
        return found

    async def acknowledge(self, cursor: Cursor) -> None:
        for packet in self.to_acknowledge(cursor):
            if packet:  # At QoS 0 it has no number, and nobody waits.
                self._link.acknowledge(packet)

    async def close(self) -> None:
        await self._link.close()


def _record(message: MQTTMessage, position: str, headers: Mapping[str, str]) -> Record:
    told = {name: text.encode() for name, text in headers.items()}
    key = message.topic.encode()
    return Record(PARTITION, position, bytes(message.payload), key, headers=told)


class MqttSink(Sink):
    """Publishes what is in an outbox to a topic of an MQTT 5 broker, at QoS 1.

        paid = Outbox("paid", MqttSink("mqtt://localhost", "shop/paid"))

    A message's id is the user property `message_id`, by which `Mqtt` drops one that comes again;
    its key is the property `everlong-key`. What people get wrong: a broker acknowledges a message
    also if nobody has subscribed, and forgets it then.

    Args:
        url: "mqtt://user:password@host:port", or "mqtts://…" for TLS.
        topic: to which they are published.
        retain: whether the broker keeps the last one for those who subscribe later.
        id_property: the name of the user property that is the message's id.
        tls: for "mqtts", arguments of paho's `tls_set`, such as `ca_certs`.
    """

    def __init__(
        self,
        url: str,
        topic: str,
        *,
        retain: bool = False,
        id_property: str = "message_id",
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        self.place = urlsplit(url)
        if self.place.scheme not in _PORTS or not self.place.hostname:
            raise InvalidArguments("MqttSink publishes to mqtt://host:port or mqtts://host:port")
        if not topic or "+" in topic or "#" in topic:
            raise InvalidArguments(f"topic={topic!r}: give one topic, without + and #")
        self.topic, self.retain, self.id_property = topic, retain, id_property
        self.tls = dict(tls or {})

    async def open(self) -> Writer:
        """A connection of a session that ends with it: what is not acknowledged comes anew."""
        link = _Link(self, "")
        try:
            await link.connect(_properties(PacketTypes.CONNECT), anew=True)
        except BaseException:
            await link.close()
            raise
        return _MqttWriter(self, link)

    def __repr__(self) -> str:
        return f"MqttSink({self.topic!r})"  # The URL may hold a password.


class _MqttWriter(Writer):
    def __init__(self, sink: MqttSink, link: _Link) -> None:
        self._sink = sink
        self._link = link

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        sink, refused = self._sink, dict[str, str]()
        sent: dict[str, asyncio.Future[Any]] = {}
        for one in messages:
            properties = _properties(PacketTypes.PUBLISH)
            properties.UserProperty = [(sink.id_property, one.id), *one.headers.items()]
            if one.key is not None:
                properties.UserProperty = (
                    "everlong-key",
                    one.key.decode("utf-8", "backslashreplace"),
                )
            size = len(one.value) + len(properties.pack()) + len(sink.topic.encode()) + _AROUND
            if size > self._link.packet_max:
                refused[one.id] = f"larger than the {self._link.packet_max} bytes the broker takes"
                continue
            sent[one.id] = self._link.publish(sink.topic, one.value, properties, retain=sink.retain)
        async with asyncio.timeout(_ANSWER_S):
            told = await asyncio.gather(*sent.values(), return_exceptions=True)
        for identifier, answer in zip(sent, told, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer.value in _REFUSALS:
                refused[identifier] = str(answer)
            elif answer.is_failure:
                raise ConnectionError(f"{sink!r}: the broker takes it not: {answer}")
        return refused

    async def close(self) -> None:
        await self._link.close()
