//! What the engine promises, told as stories over real HTTP and a real PostgreSQL. Time is moved in the database; nothing waits by the clock.

mod arrival;
mod callback_trouble;
mod fairness;
mod lifecycle;
mod nodes;
mod outages;
mod partners;
mod retries;
mod upkeep;
