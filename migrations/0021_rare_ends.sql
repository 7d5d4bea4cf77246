-- Serves: a partner's deliveries that ended otherwise than they were meant to, among millions that did not.
create index attempts_rare_ends on attempts (partner_id, delivery_id) where final_state in ('dead', 'cancelled', 'expired');
