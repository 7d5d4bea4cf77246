-- Statements that write only what is still as it was read count what they wrote. Where somebody else was faster, the whole statement is undone and its
-- sender begins again: that is a serialization failure, and is told as one.
create function herald_expect(written bigint, expected bigint) returns boolean
    language plpgsql volatile
    as $$
        begin
            if written <> expected then
                raise exception 'wrote % of % rows: others were changed meanwhile', written, expected using errcode = 'serialization_failure';
            end if;
            return true;
        end
    $$;
