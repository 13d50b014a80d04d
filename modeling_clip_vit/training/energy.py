"""Energy of a run, as codecarbon estimates it from the power of the machine."""

import logging
from typing import Any

from ..utils.errors import UserError
from ..utils.packages import require

#: Seconds between two measurements of the power.
INTERVAL = 15


class EnergyMeter:
    """Measures from now on, without the network; the whole machine counts.

    Args:
        country: ISO 3166 code of three letters, whose mix of power plants is assumed.

    Raises:
        MissingPackageError: codecarbon is not installed.
        UserError: codecarbon does not know the country.
    """

    def __init__(self, country: str):
        require(("codecarbon",), "energy", "energy_country")
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource

        countries = DataSource().get_global_energy_mix_data()
        if country not in countries:
            raise UserError(
                f"energy_country={country!r} is not allowed: it must be the ISO code of a country "
                "in three letters, such as CHN or DEU"
            )
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        self.country = countries[country].get("country_name") or country
        self.tracker = OfflineEmissionsTracker(
            country_iso_code=country,
            save_to_file=False,
            log_level="error",
            allow_multiple_runs=True,
            measure_power_secs=INTERVAL,
        )
        self.tracker.start()

    def stop(self) -> dict[str, Any]:
        """The energy since the start in kWh, the grams of CO2 that it emitted, and the country."""
        kilograms = self.tracker.stop() or 0.0
        data = self.tracker.final_emissions_data
        return {
            "energy_kwh": data.energy_consumed,
            "emissions_g": 1000 * kilograms,
            "country": self.country,
        }
