//! The page a person opens.

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:1500px;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .9rem;border-bottom:1px solid #ddd;text-align:left}\
    td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}\
    .flow{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{color:#666;font-size:.85rem}\
    .flow svg{max-width:100%;height:auto;border:1px solid #eee}img{max-width:100%}";

/// The whole report as one HTML document: the SVG charts and PNG pictures are part of it.
pub fn html(report: &Report, charts: &[String], pictures: &[(&str, Vec<u8>)]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (report.title) }
                (summary(report))
                h2 { "Curves" }
                div.flow { @for chart in charts { (PreEscaped(chart)) } }
                h2 { "Classes" }
                (classes(report))
                @if !pictures.is_empty() {
                    h2 { "Held-out pictures" }
                    div.flow {
                        @for (caption, png) in pictures {
                            figure {
                                img src={ "data:image/png;base64," (STANDARD.encode(png)) } alt=(caption);
                                figcaption { (caption) }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn summary(report: &Report) -> Markup {
    let metrics = &report.metrics;
    html! {
        table {
            tr { th { "mAP at IoU 0.5" } td.number { (share(metrics.map50)) } }
            tr { th { "mAP over IoU 0.5 to 0.95" } td.number { (share(metrics.map50_95)) } }
            tr {
                th { "Precision and recall at score " (format!("{:.3}", metrics.threshold)) }
                td.number { (share(metrics.precision)) " and " (share(metrics.recall)) }
            }
            tr { th { "Held-out pictures" } td.number { (metrics.pictures) } }
            @for (name, value) in &report.facts { tr { th { (name) } td.number { (value) } } }
        }
    }
}

fn classes(report: &Report) -> Markup {
    html! {
        table {
            tr {
                th { "Class" }
                @for name in ["Objects", "AP 0.5", "AP 0.5:0.95", "Precision", "Recall"] { th.number { (name) } }
            }
            @for class in &report.metrics.per_class {
                tr {
                    td { (report.class_name(class.class_id)) }
                    td.number { (class.objects) }
                    @for value in [class.ap50, class.ap50_95, class.precision, class.recall] {
                        td.number { (share(value)) }
                    }
                }
            }
        }
    }
}

fn share(value: f64) -> String {
    format!("{value:.4}")
}
