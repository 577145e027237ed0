"""Inspections to a broker: QoS 1, delivered when the broker has confirmed it.

efficientad/STATION/SOURCE/inspection    each inspection as JSON
efficientad/REPLICA/state                online or offline, retained; last will
efficientad/STATION/audit                number and hash of the last entry, retained
"""

import json
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from efficientad.station.config import Mqtt

_ACKNOWLEDGED_SECONDS: Final = 10.0
_KEEP_ALIVE: Final = 20


class MqttSink:
    """A receiver of inspections by MQTT."""

    def __init__(self, settings: Mqtt, station: str, replica: str) -> None:
        self.name = settings.name
        self._topic = f"efficientad/{station}"
        self._state = f"efficientad/{replica}/state"
        self._client = client = Client(
            CallbackAPIVersion.VERSION2, f"efficientad-{replica}"
        )
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if settings.has_tls:
            client.tls_set()
        client.will_set(self._state, "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._connected
        client.connect_async(settings.host, settings.port, _KEEP_ALIVE)
        client.loop_start()

    def deliver(self, payload: dict[str, Any]) -> None:
        """Publish an inspection, or raise `OSError` if it is not confirmed."""
        if not self._client.is_connected():
            raise OSError("the broker is not connected")
        topic = f"{self._topic}/{payload['source']}/inspection"
        _confirmed(self._client.publish(topic, json.dumps(payload), qos=1))

    def note(self, kind: str, content: dict[str, Any]) -> None:
        """Publish the end of the audit log, so that a cut one shows."""
        if kind == "audit":
            topic = f"{self._topic}/audit"
            self._client.publish(topic, json.dumps(content), qos=1, retain=True)

    def close(self) -> None:
        """Publish that the station is offline, and disconnect."""
        if self._client.is_connected():
            self._client.publish(self._state, "offline", 1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Client, *_: Any) -> None:
        client.publish(self._state, "online", 1, retain=True)


def _confirmed(sent: MQTTMessageInfo) -> None:
    try:
        sent.wait_for_publish(_ACKNOWLEDGED_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise OSError(str(error)) from error
    if not sent.is_published():
        raise OSError("the broker has not confirmed it")
