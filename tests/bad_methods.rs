//! Choices and groupings of weights that do not exist, or do not go together.

use crate::harness::{Case, Ranks, check_bad_of};

fn flags<const N: usize>(flags: [&str; N]) -> Vec<String> {
    flags.map(str::to_owned).to_vec()
}

#[test]
fn on_ranks_too() {
    let cases = [
        Case {
            name: "a regular expression that is none",
            setup: |_| flags(["--target-modules", "regex:.*(q_proj"]),
            says: &["--target-modules '.*(q_proj'", "regular expression"],
        },
        Case {
            name: "more groups by block than blocks allow",
            setup: |_| flags(["--partition-scope", "transformer_block", "--d", "3"]),
            says: &["d is 3", "below the 4 blocks"],
        },
    ];
    for case in &cases {
        check_bad_of("train", Ranks::Alone, case);
        check_bad_of("train", Ranks::Mpi(2), case);
    }
}

#[test]
fn alone() {
    let cases = [
        Case {
            name: "an expression that matches nothing",
            setup: |_| flags(["--target-modules", "regex:.*x_proj"]),
            says: &["'regex:.*x_proj'", "no linear module", "model.layers.0"],
        },
        Case {
            name: "an expression that matches only a part",
            setup: |_| flags(["--target-modules", "regex:q_proj"]),
            says: &["'regex:q_proj'", "no linear module"],
        },
        Case {
            name: "an expression that never ends",
            setup: |_| flags(["--target-modules", r"regex:((a*)*)*b\2|(?:(?=.)[a-z.0-9_]+)+(?!.)\1!"]),
            says: &["--target-modules", "regular expression"],
        },
        Case {
            name: "an empty expression",
            setup: |_| flags(["--target-modules", "regex:"]),
            says: &["target-modules"],
        },
        Case {
            name: "an unknown module",
            setup: |_| flags(["--target-modules", "q_proj,query_proj"]),
            says: &["'query_proj'", "no linear module", "q_proj"],
        },
        Case {
            name: "everything and something",
            setup: |_| flags(["--target-modules", "all-linear,q_proj"]),
            says: &["all-linear"],
        },
        Case {
            name: "a block beyond the last",
            setup: |_| flags(["--layers-to-transform", "1,4"]),
            says: &["layers-to-transform 4", "block 4", "inspect model"],
        },
        Case {
            name: "a block below the first",
            setup: |_| flags(["--layers-to-transform", "-1"]),
            says: &["layers-to-transform", "-1"],
        },
        Case {
            name: "blocks beside an expression",
            setup: |_| flags(["--layers-to-transform", "1", "--target-modules", "regex:.*q_proj"]),
            says: &["layers-to-transform 1", "target-modules regex:.*q_proj"],
        },
        Case {
            name: "blocks beside all modules",
            setup: |_| flags(["--layers-to-transform", "1", "--target-modules", "all-linear"]),
            says: &["layers-to-transform 1", "target-modules all-linear"],
        },
        Case {
            name: "a container that is not there",
            setup: |_| flags(["--layers-to-transform", "1", "--layers-pattern", "stack"]),
            says: &["block 1"],
        },
        Case {
            name: "groups by sign and size, stateless",
            setup: |_| {
                flags(["--grouping-strategy", "signed_magnitude", "--assignment-backend", "stateless"])
            },
            says: &["signed_magnitude", "assignment-backend stateless", "materialized"],
        },
        Case {
            name: "groups by sign and size on shards",
            setup: |_| flags(["--grouping-strategy", "signed_magnitude", "--dp-shard", "2"]),
            says: &["signed_magnitude", "dp-shard is 2"],
        },
        Case {
            name: "more numbers than a block's weights",
            setup: |_| {
                let blocks = ["--partition-scope", "transformer_block", "--target-modules"];
                let uneven = r"regex:.*(\.0\.self_attn\.k_proj|\.1\.mlp\.up_proj)";
                flags([blocks[0], blocks[1], blocks[2], uneven, "--d", "100000"])
            },
            says: &["d is 100000", "`model.layers.0`", "12288"],
        },
        Case {
            name: "an unknown backend",
            setup: |_| flags(["--assignment-backend", "random"]),
            says: &["random", "materialized"],
        },
        Case {
            name: "an unknown scope",
            setup: |_| flags(["--partition-scope", "layer"]),
            says: &["layer", "transformer_block"],
        },
        Case { name: "a bias of a kind", setup: |_| flags(["--bias", "lora_only"]), says: &["lora_only"] },
        Case { name: "a bound below zero", setup: |_| flags(["--init-bound", "-1"]), says: &["init-bound"] },
    ];
    cases.iter().for_each(|case| check_bad_of("train", Ranks::Alone, case));
}
