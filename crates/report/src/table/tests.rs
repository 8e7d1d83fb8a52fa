#![allow(clippy::unwrap_used)]

use super::*;
use crate::collect::LeftOut;

fn table() -> Table {
    let row = |model: &str, d, losses: &[f64], accuracies: &[f64]| Row {
        model: model.to_owned(),
        task: "metamath".to_owned(),
        d: Some(d),
        settings: String::new(),
        seeds: losses.len(),
        runs: vec!["runs/a_1".to_owned(), "runs/a_2".to_owned()],
        steps: Some(12_000),
        final_loss: Spread::of(losses),
        held_out_loss: None,
        accuracy: vec![Spread::of(accuracies)],
        adapter_bytes: Some(2_097_152),
    };
    Table {
        // Mean 2.5, sample sd 0.5·√2 = 0.7071; accuracies 0.61, 0.62, 0.66: mean 0.63, median 0.62,
        // squares 0.0004 + 0.0001 + 0.0009 = 0.0014, sample sd 0.026458, population sd 0.021602.
        rows: vec![
            row("模型", 4096, &[2.0, 3.0], &[0.61, 0.62, 0.66]),
            row("=a&b|c_1", 524_288, &[1.25], &[]),
        ],
        left_out: vec![LeftOut { path: "runs/x".to_owned(), reason: "no summary: 50% done".to_owned() }],
        remarks: Vec::new(),
        datasets: vec!["gsm8k".to_owned()],
    }
}

#[test]
fn text_is_aligned_by_width() {
    let text = table().text();
    let expect = "\
model     task            d  seeds   steps       final loss    gsm8k, %  gsm8k, median (sd)  trainable  adapter
───────────────────────────────────────────────────────────────────────────────────────────────────────────────
模型      metamath    4,096      2  12,000  2.5000 ± 0.7071  63.0 ± 2.6          62.0 (2.2)      4,096   2.1 MB
=a&b|c_1  metamath  524,288      1  12,000           1.2500                                    524,288   2.1 MB
";
    assert!(text.starts_with(expect), "{text}");
    assert!(text.ends_with("not in the table:\n  runs/x: no summary: 50% done\n"), "{text}");
    let widths: Vec<usize> = text.lines().take(4).map(UnicodeWidthStr::width).collect();
    assert_eq!(widths, [widths[0]; 4]);
}

#[test]
fn markdown_is_escaped() {
    let text = table().markdown();
    let expect = r"| model | task | d | seeds | steps | final loss | gsm8k, % | gsm8k, median (sd) | trainable | adapter |
|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|
| 模型 | metamath | 4,096 | 2 | 12,000 | 2.5000 ± 0.7071 | 63.0 ± 2.6 | 62.0 (2.2) | 4,096 | 2.1 MB |
| =a&amp;b\|c\_1 | metamath | 524,288 | 1 | 12,000 | 1.2500 |  |  | 524,288 | 2.1 MB |
";
    assert!(text.starts_with(expect), "{text}");
    assert!(text.contains("\nnot in the table:\n\n- runs/x: no summary: 50% done\n"), "{text}");
}

#[test]
fn latex_is_for_booktabs() {
    let text = table().latex();
    let expect = r"% \usepackage{booktabs}
\begin{tabular}{llrrrrrrrr}
\toprule
model & task & d & seeds & steps & final loss & gsm8k, \% & gsm8k, median (sd) & trainable & adapter \\
\midrule
模型 & metamath & 4,096 & 2 & 12,000 & 2.5000 $\pm$ 0.7071 & 63.0 $\pm$ 2.6 & 62.0 (2.2) & 4,096 & 2.1 MB \\
=a\&b\textbar{}c\_1 & metamath & 524,288 & 1 & 12,000 & 1.2500 &  &  & 524,288 & 2.1 MB \\
\bottomrule
\end{tabular}
";
    assert!(text.starts_with(expect), "{text}");
    assert!(text.ends_with("% not in the table:\n%   runs/x: no summary: 50% done\n"), "{text}");
}

#[test]
fn csv_has_plain_numbers_and_all_runs() {
    let text = table().csv().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "model,task,d,settings,seeds,steps,final_loss_mean,final_loss_sd,held_out_loss_mean,held_out_loss_sd,\
         accuracy_gsm8k_mean,accuracy_gsm8k_sd,accuracy_gsm8k_median,accuracy_gsm8k_population_sd,trainable,\
         adapter_bytes,status,runs"
    );
    assert!(
        lines[1].starts_with("模型,metamath,4096,,2,12000,2.5,0.7071067811865476,,,0.63,"),
        "{}",
        lines[1]
    );
    assert!(lines[1].ends_with(",4096,2097152,finished,runs/a_1 runs/a_2"), "{}", lines[1]);
    assert!(lines[2].starts_with("'=a&b|c_1,metamath,524288,,1,12000,1.25,,,,,,,,524288,"), "{}", lines[2]);
    assert_eq!(lines[3], ",,,,,,,,,,,,,,,,no summary: 50% done,runs/x");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert!(reader.records().all(|record| record.unwrap().len() == 18));
}

#[test]
fn json_is_whole() {
    let value: serde_json::Value = serde_json::from_str(&table().json().unwrap()).unwrap();
    assert_eq!(value["rows"][0]["final_loss"]["mean"], 2.5);
    assert_eq!(value["left_out"][0]["path"], "runs/x");
}

#[test]
fn the_official_form() {
    // As the official collectors print one value, and three.
    assert_eq!(official(Spread::of(&[0.6234])), "62.3 (0.0)");
    assert_eq!(official(Spread::of(&[0.61, 0.62, 0.66])), "62.0 (2.2)");
    assert_eq!(official(None), "");
}
