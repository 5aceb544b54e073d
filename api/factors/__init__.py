"""Files of prices, grid intensities and configured PUE of sites, from bytes to the store; see docs/tariffs.md."""
