"""Three machines in a row: each follows the one before it, until the one in the middle is disposed.

A sensor is read, a controller draws conclusions, a panel shows them. No one knows the next by name: pipes pass states
on, and errors as well.
"""

from __future__ import annotations

import asyncmachine as am


class SensorStates(am.States):
    """Something that is measured."""

    Online: str = am.state()
    Hot: str = am.state(require=[Online])
    Reading: str = am.state(multi=True, require=[Online])


class ControllerStates(am.States):
    """What follows from it."""

    SensorOnline: str = am.state()
    TooHot: str = am.state()
    Reading: str = am.state(multi=True)
    Cooling: str = am.state(auto=True, require=[SensorOnline, TooHot])
    ErrSensor: str = am.state(require=[am.EXCEPTION])


class PanelStates(am.States):
    """What people see."""

    Alarm: str = am.state()
    Fan: str = am.state()


class Controller:
    """Counts readings, and takes errors of the sensor calmly."""

    def __init__(self) -> None:
        self.readings = 0

    def ReadingState(self, e: am.Event) -> None:
        self.readings += 1
        source = e.mutation.source
        print(f"controller: {e.args['degrees']} degrees, from {source.machine_id if source else 'nowhere'}")

    def ExceptionState(self, e: am.Event) -> None:
        print(f"controller: {e.arg(am.ExceptionArgs).err}")


class Quiet:
    """Leaves errors to whoever they are piped to."""

    def ExceptionState(self, e: am.Event) -> None: ...


async def main() -> None:
    """Pipe three machines, use them, and dispose the one in the middle."""
    sensor = am.Machine(SensorStates, id="sensor", handlers=Quiet())
    controller = am.Machine(ControllerStates, id="controller", handlers=Controller())
    panel = am.Machine(PanelStates, id="panel")
    pipes = [
        am.pipe_many(sensor, controller, {"Online": "SensorOnline", "Hot": "TooHot", "Reading": "Reading"}),
        am.pipe_err(sensor, controller, "ErrSensor"),
        am.pipe_many(controller, panel, {"ErrSensor": "Alarm", "Cooling": "Fan"}),
    ]

    sensor.add1("Online")
    sensor.add1("Reading", {"degrees": 21})
    sensor.add1("Reading", {"degrees": 63})
    sensor.add1("Hot")
    print("panel:", panel)
    sensor.remove1("Hot")
    print("panel:", panel)
    sensor.add_err(OSError("the sensor does not answer"))
    print("panel:", panel)

    await controller.dispose()
    print("closed:", [pipe.is_closed for pipe in pipes])
    print("panel:", panel)  # what came from the controller has gone with it
    sensor.add1("Hot")
    print("sensor:", sensor, "panel:", panel)
    await sensor.dispose()
    await panel.dispose()


if __name__ == "__main__":
    am.run(main)
