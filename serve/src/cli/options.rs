//! The flags of `detect` that choose the model and the objects.

use clap::ValueEnum;
use detectd_proto::detect::v1 as wire;

use crate::client::Question;

#[derive(Debug, clap::Args)]
pub(super) struct QuestionArgs {
    /// The model; may be left out where the server has only one.
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    model: String,
    /// The model's version [default: the one the server prefers].
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "NUMBER")]
    version: u64,
    /// Drop boxes that score lower, from 0 to 1.
    #[arg(long, value_name = "SCORE")]
    score: Option<f32>,
    /// How boxes that show the same object are thinned out.
    #[arg(long, value_name = "METHOD")]
    nms: Option<Method>,
    /// For --nms matrix and soft.
    #[arg(long, requires = "nms")]
    kernel: Option<Kernel>,
    /// For the gaussian kernel.
    #[arg(long, requires = "nms")]
    sigma: Option<f32>,
    /// The overlap that counts, from 0 to 1, for --nms greedy and the linear kernel of soft.
    #[arg(long, requires = "nms")]
    iou: Option<f32>,
    /// At most so many boxes a picture.
    #[arg(long, value_name = "COUNT")]
    max_detections: Option<u32>,
    /// Only these classes, by label or by number: --classes bolt,nut.
    #[arg(long, value_delimiter = ',', value_name = "CLASS")]
    classes: Vec<String>,
    /// Boxes of different classes suppress each other too.
    #[arg(long)]
    class_agnostic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Matrix,
    Greedy,
    Soft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernel {
    Linear,
    Gaussian,
}

impl QuestionArgs {
    /// What to ask the server; what is not given is left to the model's defaults.
    pub(super) fn question(&self) -> anyhow::Result<Question> {
        let (class_ids, class_labels) = classes(&self.classes);
        let options = wire::DetectOptions {
            score_threshold: self.score,
            nms: self
                .nms
                .map(|method| self.method(method))
                .transpose()?
                .map(|method| wire::Nms { method: Some(method) }),
            max_detections: self.max_detections,
            class_ids,
            class_labels,
            class_agnostic: self.class_agnostic.then_some(true),
        };
        Ok(Question {
            model: self.model.clone(),
            version: self.version,
            options: (options != wire::DetectOptions::default()).then_some(options),
        })
    }

    fn method(&self, method: Method) -> anyhow::Result<wire::nms::Method> {
        let kernel = match self.kernel {
            None => wire::NmsKernel::Unspecified,
            Some(Kernel::Linear) => wire::NmsKernel::Linear,
            Some(Kernel::Gaussian) => wire::NmsKernel::Gaussian,
        };
        let refused = |flag: &str, given: bool| {
            anyhow::ensure!(!given, "--{flag} has no meaning for --nms {}", format!("{method:?}").to_lowercase());
            Ok(())
        };
        Ok(match method {
            Method::Matrix => {
                refused("iou", self.iou.is_some())?;
                let matrix = wire::MatrixNms { kernel: kernel.into(), sigma: self.sigma, ..Default::default() };
                wire::nms::Method::Matrix(matrix)
            }
            Method::Greedy => {
                refused("kernel", self.kernel.is_some())?;
                refused("sigma", self.sigma.is_some())?;
                wire::nms::Method::Greedy(wire::GreedyNms { iou_threshold: self.iou })
            }
            Method::Soft => wire::nms::Method::Soft(wire::SoftNms {
                kernel: kernel.into(),
                sigma: self.sigma,
                iou_threshold: self.iou,
            }),
        })
    }
}

/// Numbers are ids, everything else is a label.
fn classes(classes: &[String]) -> (Vec<u32>, Vec<String>) {
    let classes = classes.iter().map(|class| class.trim()).filter(|class| !class.is_empty());
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    for class in classes {
        match class.parse() {
            Ok(id) => ids.push(id),
            Err(_) => labels.push(class.to_owned()),
        }
    }
    (ids, labels)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        question: QuestionArgs,
    }

    fn question(arguments: &str) -> anyhow::Result<Question> {
        Line::try_parse_from(format!("x {arguments}").split_whitespace())?.question.question()
    }

    #[test]
    fn nothing_given_leaves_everything_to_the_model() {
        assert_eq!(question("").expect("valid"), Question::default());
    }

    #[test]
    fn flags_arrive_in_the_request() {
        let question =
            question("-m parts --version 3 --score 0.4 --nms soft --kernel gaussian --sigma 0.3 --classes 2,bolt")
                .expect("valid");
        assert_eq!((question.model.as_str(), question.version), ("parts", 3));
        let options = question.options.expect("options");
        assert_eq!(
            (options.score_threshold, options.class_ids, options.class_labels),
            (Some(0.4), vec![2], vec!["bolt".to_owned()])
        );
        let soft = wire::SoftNms { kernel: wire::NmsKernel::Gaussian.into(), sigma: Some(0.3), iou_threshold: None };
        assert_eq!(options.nms.and_then(|nms| nms.method), Some(wire::nms::Method::Soft(soft)));
    }

    #[test]
    fn flags_without_meaning_are_refused() {
        for (arguments, expected) in [
            ("--nms matrix --iou 0.5", "--iou has no meaning for --nms matrix"),
            ("--nms greedy --sigma 1", "--sigma has no meaning for --nms greedy"),
            ("--iou 0.5", "--nms"),
            ("--nms median", "possible values: matrix, greedy, soft"),
        ] {
            let error = question(arguments).expect_err(arguments).to_string();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
