-- report.gpus: what each physical GPU is and where.
-- Definition: one row per UUID ever seen. MIG instances are listed within their GPU, never as rows.
-- Missing data: what the GPU does not tell is NULL.
-- needs: nodes
CREATE VIEW report.gpus AS
SELECT
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    nodes.site,
    nodes.rack,
    nodes.node_id,
    nodes.hostname,
    nodes.simulated,
    gpu.serial,
    gpu.pci_bus_id,
    gpu.vbios_version,
    gpu.mem_total_mib,
    gpu.power_limit_mw / 1000.0::double precision AS power_limit_w,
    gpu.power_limit_default_mw / 1000.0::double precision AS power_limit_default_w,
    gpu.power_limit_min_mw / 1000.0::double precision AS power_limit_min_w,
    gpu.power_limit_max_mw / 1000.0::double precision AS power_limit_max_w,
    gpu.temp_slowdown_c,
    gpu.temp_shutdown_c,
    gpu.energy_counter,
    gpu.power_scope,
    gpu.mig_enabled,
    gpu.mig_instances,
    gpu.removed
FROM gigawatch.gpu
JOIN report.nodes USING (node_id);
COMMENT ON VIEW report.gpus IS 'Physical GPUs: what each is and where';
COMMENT ON COLUMN report.gpus.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpus.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpus.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpus.site IS 'Site';
COMMENT ON COLUMN report.gpus.rack IS 'Rack';
COMMENT ON COLUMN report.gpus.node_id IS 'Number of its node in this store';
COMMENT ON COLUMN report.gpus.hostname IS 'Host name of its node';
COMMENT ON COLUMN report.gpus.simulated IS 'Whether its data are simulated or replayed';
COMMENT ON COLUMN report.gpus.serial IS 'Serial number';
COMMENT ON COLUMN report.gpus.pci_bus_id IS 'PCI address';
COMMENT ON COLUMN report.gpus.vbios_version IS 'Version of the video BIOS';
COMMENT ON COLUMN report.gpus.mem_total_mib IS 'Memory, MiB';
COMMENT ON COLUMN report.gpus.power_limit_w IS 'Enforced power limit, W';
COMMENT ON COLUMN report.gpus.power_limit_default_w IS 'Default power limit, W';
COMMENT ON COLUMN report.gpus.power_limit_min_w IS 'Least power limit that can be set, W';
COMMENT ON COLUMN report.gpus.power_limit_max_w IS 'Greatest power limit that can be set, W';
COMMENT ON COLUMN report.gpus.temp_slowdown_c IS 'Temperature at which it slows down, °C';
COMMENT ON COLUMN report.gpus.temp_shutdown_c IS 'Temperature at which it shuts down, °C';
COMMENT ON COLUMN report.gpus.energy_counter IS 'Whether it has an energy counter';
COMMENT ON COLUMN report.gpus.power_scope IS 'gpu, or module where the sensor covers a CPU as well';
COMMENT ON COLUMN report.gpus.mig_enabled IS 'Whether MIG is on; NULL where the GPU cannot';
COMMENT ON COLUMN report.gpus.mig_instances IS 'MIG devices: uuid, ids, profile, memory';
COMMENT ON COLUMN report.gpus.removed IS 'When its node was seen without it, UTC; NULL while it is there';
