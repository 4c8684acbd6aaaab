-- Row-level security. The roles are made before (roles.go). FORCE makes it hold
-- for the tables' owner too, which is what the hub logs in as: without a role
-- taken, a query finds no row.

DO $$
DECLARE
    t text;
BEGIN
    -- Every table with a household in it.
    FOREACH t IN ARRAY ARRAY[
        'memberships', 'invitations', 'nodes', 'enrolments',
        'records', 'blobs', 'versions', 'hooks', 'accepted', 'deliveries',
        'sessions', 'auth_requests', 'devices', 'peers', 'invites'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        -- Not for those who are members of the role and have not taken it.
        EXECUTE format($p$CREATE POLICY everywhere ON %I TO warren_system
            USING (current_user = 'warren_system') WITH CHECK (current_user = 'warren_system')$p$, t);
    END LOOP;

    -- Those whose rows belong to the household. In the others it is where a
    -- person is at home just now, or the packet policy's name for something
    -- else: no tenant sees them at all.
    FOREACH t IN ARRAY ARRAY[
        'memberships', 'invitations', 'nodes', 'enrolments',
        'records', 'blobs', 'versions', 'hooks', 'accepted', 'deliveries'
    ] LOOP
        EXECUTE format($p$CREATE POLICY within ON %I TO warren_tenant
            USING (household = NULLIF(current_setting('warren.household', true), ''))
            WITH CHECK (household = NULLIF(current_setting('warren.household', true), ''))$p$, t);
    END LOOP;
END $$;

-- What a transaction inside a household may do, and nothing else: not one
-- person, session, key, secret or audit entry.
GRANT SELECT ON memberships, nodes TO warren_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON records, blobs, versions, hooks, accepted, deliveries TO warren_tenant;
