-- report.agents: when each host was last heard of.
-- Definition: one row per host name of a site: of nodes that have the same, as where a machine was replaced or set up anew, the one that was heard of last.
-- Missing data: a rack that nobody named is NULL.
CREATE VIEW report.agents AS
SELECT
    site.name AS site,
    rack.name AS rack,
    node.hostname,
    now.node_id,
    now.simulated,
    now.gpus_expected AS gpus,
    node.agent_version,
    now.last_seen
FROM gigawatch.node_now AS now
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site ON site.site_id = now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = now.rack_id
WHERE NOT EXISTS (
    SELECT FROM gigawatch.node AS other
    JOIN gigawatch.node_now AS newer ON newer.node_id = other.node_id
    WHERE other.site_id = node.site_id AND other.hostname = node.hostname AND other.node_id <> node.node_id
        AND (newer.last_seen, newer.node_id) > (now.last_seen, now.node_id)
);
COMMENT ON VIEW report.agents IS 'When each host was last heard of';
COMMENT ON COLUMN report.agents.site IS 'Name of the site';
COMMENT ON COLUMN report.agents.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.agents.hostname IS 'Host name';
COMMENT ON COLUMN report.agents.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.agents.simulated IS 'Whether its data are simulated or replayed';
COMMENT ON COLUMN report.agents.gpus IS 'Physical GPUs that it has';
COMMENT ON COLUMN report.agents.agent_version IS 'Version of the agent';
COMMENT ON COLUMN report.agents.last_seen IS 'When the server last stored a batch of it, UTC';

-- Nodes of which an alert stays what it is while nothing is known of them: those heard of in the last hour and, for as long as their silence is told of,
-- others whose host was not set up anew since. For the views of rules.
CREATE VIEW expanded.kept_node AS
SELECT now.node_id
FROM gigawatch.node_now AS now
WHERE now.last_seen > (SELECT now() - interval '1 hour')
    OR EXISTS (SELECT FROM report.agents AS host WHERE host.node_id = now.node_id AND host.last_seen > now() - interval '7 days');
