"""What a kWh costs and emits: files of prices and grid intensities, from bytes to the store; see docs/tariffs.md."""
