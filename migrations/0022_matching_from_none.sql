-- The version of a partner's matching counts its changes. A row may be there before the first of them, because somebody has locked it; if that
-- transaction is rolled back, what was read under it must hold for as long as there is no row and no change, and no longer.
alter table matching_versions drop constraint matching_versions_version_check;
alter table matching_versions add constraint matching_versions_version_check check (version >= 0);
