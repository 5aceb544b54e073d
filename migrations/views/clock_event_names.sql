-- report.clock_event_names(bits): why a GPU's clocks were held down, as names.
-- Definition: the bits nvmlClocksEventReason* of nvml.h, without 0x1 (idle), which holds nothing down.
-- Missing data: NULL stays NULL.
CREATE FUNCTION report.clock_event_names(bits bigint) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN (
    SELECT coalesce(array_agg(reason.name ORDER BY reason.bit), '{}')
    FROM (VALUES
        (2::bigint, 'applications clocks'),
        (4, 'software power cap'),
        (8, 'hardware slowdown'),
        (16, 'sync boost'),
        (32, 'software thermal slowdown'),
        (64, 'hardware thermal slowdown'),
        (128, 'power brake slowdown'),
        (256, 'display clocks')
    ) AS reason (bit, name)
    WHERE bits & reason.bit <> 0
);
COMMENT ON FUNCTION report.clock_event_names IS
    'Names of the reasons for held-down clocks in a set of NVML bits';
