//! Where a row lies: PostgreSQL's `tid`, page and place in it. Finding a row by it spares a look into the index.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::domain::row_hint::RowHint;

/// PostgreSQL's own numbers of `tid` and `tid[]`.
const TID: Oid = Oid(27);
const TIDS: Oid = Oid(1010);

impl Type<Postgres> for RowHint {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TID)
    }
}

impl PgHasArrayType for RowHint {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIDS)
    }
}

impl Encode<'_, Postgres> for RowHint {
    fn encode_by_ref(&self, into: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        into.extend_from_slice(&self.page.to_be_bytes());
        into.extend_from_slice(&self.slot.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for RowHint {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let [p0, p1, p2, p3, s0, s1] = value.as_bytes()?.try_into()?;
        Ok(Self { page: u32::from_be_bytes([p0, p1, p2, p3]), slot: u16::from_be_bytes([s0, s1]) })
    }
}
