//! What the engine promises, told as stories over real HTTP and a real PostgreSQL. Time is moved in the database; nothing waits by the clock.

mod arrival;
mod backlogs;
mod beside;
mod bundles;
mod callback_trouble;
mod changes;
mod doubt;
mod draining;
mod fairness;
mod fan_outs;
mod lifecycle;
mod lists;
mod locks;
mod long_queues;
mod matching;
mod nodes;
mod ordering;
mod outages;
mod partners;
pub mod plans;
mod poison;
mod reads;
mod retries;
mod stubborn;
mod upkeep;
mod workers;
