"""The driver of a meter, by its settings."""

from importlib import import_module
from typing import cast

from collector.meters import maps
from collector.meters.reading import Driver
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter


def driver(settings: Meter) -> Driver:
    """What reads a meter. Its library is loaded now, and no other driver's.

    Raises:
        GigawatchError: the map is not known or another driver's, settings do not fit it, or the library is missing.
    """
    map_ = maps.load(settings.map)
    if (wants := type(map_).__struct_config__.tag) != settings.driver:
        raise GigawatchError(
            f"The meter {settings.name} has driver = {settings.driver!r}, and its map {map_.name} is of {wants}",
            f"Set driver to {wants!r}, or choose another map: `gigawatch meter maps` lists them.",
            ExitCode.CONFIGURATION,
        )
    try:
        module = import_module(f"collector.meters.{settings.driver}")
    except ModuleNotFoundError as error:
        raise GigawatchError(
            f"Meters of {settings.driver} need the Python module {error.name!r}, which is not installed.",
            "Install it with: pip install 'gigawatch[meters]'",
            ExitCode.CONFIGURATION,
        ) from error
    return cast("Driver", getattr(module, f"{settings.driver.capitalize()}Driver")(settings, map_))
