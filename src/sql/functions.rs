//! The scalar functions there are.
//!
//! A chosen list instead of everything DataFusion has: what is not named here, the linker drops from the module that
//! every visitor downloads.

use std::sync::Arc;

use datafusion::functions_aggregate::{
    array_agg, average, bit_and_or_xor, bool_and_or, correlation, count, covariance, first_last, grouping, min_max,
    nth_value, percentile_cont, stddev, string_agg, variance,
};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion_functions as df;

use super::{casts, generated, json, sums, vectors};
use crate::tables::TableStore;

/// Every scalar function: DataFusion's, by their names and aliases, and this engine's own. Ids come from `store`.
pub fn scalar_functions(store: &Arc<TableStore>) -> Vec<Arc<ScalarUDF>> {
    let mut functions = Vec::new();
    functions.extend(df::core::functions());
    functions.extend(super::time_formats::functions());
    functions.extend(df::encoding::functions());
    functions.extend(df::math::functions());
    functions.extend(df::regex::functions());
    functions.extend(df::string::functions());
    functions.extend(df::unicode::functions());
    functions.extend(super::who::functions());
    functions.push(super::coalesce::function());
    functions.push(super::time_of_day::function());
    functions.push(super::intervals::age());
    functions.push(super::time_zones::function());
    functions.push(Arc::new(df::math::signum().as_ref().clone().with_aliases(["sign"])));
    functions.push(Arc::new(df::string::uuid().as_ref().clone().with_aliases(["gen_random_uuid"])));
    functions.push(casts::NamedCast::function());
    functions.extend(generated::functions(store));
    functions.extend(json::functions());
    functions.extend(vectors::functions());
    functions
}

/// Every aggregate function: PostgreSQL's, without the regressions. Estimates and `median` stay out too: their kernels
/// for every type would be half a megabyte, and `percentile_cont(0.5)` is the standard's median.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![
        array_agg::array_agg_udaf(),
        average::avg_udaf(),
        bit_and_or_xor::bit_and_udaf(),
        bit_and_or_xor::bit_or_udaf(),
        bit_and_or_xor::bit_xor_udaf(),
        bool_and_or::bool_and_udaf(),
        bool_and_or::bool_or_udaf(),
        correlation::corr_udaf(),
        count::count_udaf(),
        covariance::covar_pop_udaf(),
        covariance::covar_samp_udaf(),
        first_last::first_value_udaf(),
        first_last::last_value_udaf(),
        grouping::grouping_udaf(),
        min_max::max_udaf(),
        min_max::min_udaf(),
        nth_value::nth_value_udaf(),
        percentile_cont::percentile_cont_udaf(),
        stddev::stddev_pop_udaf(),
        stddev::stddev_udaf(),
        string_agg::string_agg_udaf(),
        sums::sum(),
        variance::var_pop_udaf(),
        variance::var_samp_udaf(),
    ]
}
