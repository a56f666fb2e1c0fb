//! What a request chooses, laid over what its model does by default.

use std::borrow::Cow;

use detectd_vision::{DetectOptions, GreedyNms, MatrixKernel, MatrixNms, Nms, OptionsError, SoftKernel, SoftNms};

use crate::error::Error;

/// A request's choices; what is `None` is left to the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestedOptions {
    /// Boxes that score lower are dropped.
    pub score_threshold: Option<f32>,
    /// How boxes of one object are suppressed.
    pub nms: Option<RequestedNms>,
    /// At most so many boxes.
    pub max_detections: Option<u32>,
    /// Only these classes, by id.
    pub class_ids: Vec<u32>,
    /// Only these classes, by label.
    pub class_labels: Vec<String>,
    /// Boxes of different classes suppress each other.
    pub class_agnostic: Option<bool>,
}

/// A request's choice of suppression.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestedNms {
    /// Matrix NMS.
    Matrix {
        /// Which decay.
        kernel: Option<MatrixKernel>,
        /// Of the gaussian decay.
        sigma: Option<f32>,
        /// Boxes that score lower after the decay are dropped.
        post_threshold: Option<f32>,
        /// Candidates a class.
        top_k: Option<u32>,
    },
    /// The classic.
    Greedy {
        /// Boxes that overlap a better one more are dropped.
        iou_threshold: Option<f32>,
    },
    /// Soft-NMS.
    Soft {
        /// Which decay.
        kernel: Option<SoftKernelName>,
        /// Of the gaussian decay.
        sigma: Option<f32>,
        /// Of the linear decay.
        iou_threshold: Option<f32>,
    },
}

/// The kernels of Soft-NMS by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftKernelName {
    /// Only overlaps above a threshold count.
    Linear,
    /// Every overlap counts.
    Gaussian,
}

impl RequestedOptions {
    /// These choices over a model's `defaults`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the choice that cannot be.
    pub fn resolve(
        &self,
        defaults: &DetectOptions,
        labels: &[String],
        max_detections: usize,
    ) -> Result<DetectOptions, Error> {
        let mut options = defaults.clone();
        // A manifest may ask for more than the server gives.
        options.max_detections = options.max_detections.min(max_detections);
        if self == &Self::default() {
            return Ok(options);
        }
        if let Some(nms) = &self.nms {
            nms.check().map_err(|error| Error::invalid(format!("options.{error}")))?;
            options.nms = nms.over(&defaults.nms);
        }
        if let Some(threshold) = self.score_threshold {
            options.score_threshold = threshold;
        }
        self.align_final_threshold(&mut options);
        if let Some(max) = self.max_detections {
            if max as usize > max_detections {
                return Err(Error::invalid(format!(
                    "options.max_detections must be at most {max_detections}, this server's limit, not {max}"
                )));
            }
            options.max_detections = max as usize;
        }
        if let Some(agnostic) = self.class_agnostic {
            options.class_agnostic = agnostic;
        }
        if let Some(classes) = self.classes(labels)? {
            options.classes = Some(classes);
        }
        options.validate().map_err(|error| Error::invalid(format!("options.{error}")))?;
        Ok(options)
    }

    /// Methods that lower scores have a second threshold, for the lowered ones. Who chooses a score threshold or a
    /// method, and says nothing of the second one, gets every box that scores above the threshold in the answer.
    fn align_final_threshold(&self, options: &mut DetectOptions) {
        let threshold = options.score_threshold;
        let stated = matches!(&self.nms, Some(RequestedNms::Matrix { post_threshold: Some(_), .. }));
        if stated || (self.score_threshold.is_none() && self.nms.is_none()) {
            return;
        }
        match &mut options.nms {
            Nms::Matrix(matrix) => matrix.post_threshold = threshold,
            Nms::Soft(soft) => soft.minimum_score = threshold,
            Nms::Greedy(_) => {}
        }
    }

    fn classes(&self, labels: &[String]) -> Result<Option<Vec<u32>>, Error> {
        if self.class_ids.is_empty() && self.class_labels.is_empty() {
            return Ok(None);
        }
        let mut classes = self.class_ids.clone();
        if let Some(id) = classes.iter().find(|&&id| id as usize >= labels.len()) {
            let count = labels.len();
            return Err(Error::invalid(format!("options.class_ids: {id}, but the model has {count} classes")));
        }
        for label in &self.class_labels {
            let id = labels.iter().position(|known| known == label).ok_or_else(|| {
                let known = shortened(labels);
                Error::invalid(format!("options.class_labels: the model has no class `{label}`; it has {known}"))
            })?;
            classes.push(id as u32);
        }
        classes.sort_unstable();
        classes.dedup();
        Ok(Some(classes))
    }
}

impl RequestedNms {
    /// What is stated is in range, also where the kernel has no use for it and what becomes of the request drops it.
    fn check(&self) -> Result<(), OptionsError> {
        let Self::Soft { sigma, iou_threshold, .. } = *self else {
            return Ok(());
        };
        let gaussian = sigma.map(|sigma| SoftKernel::Gaussian { sigma });
        let linear = iou_threshold.map(|iou_threshold| SoftKernel::Linear { iou_threshold });
        for kernel in gaussian.into_iter().chain(linear) {
            let nms = Nms::Soft(SoftNms { kernel, ..SoftNms::default() });
            DetectOptions { nms, ..DetectOptions::default() }.validate()?;
        }
        Ok(())
    }

    fn over(&self, defaults: &Nms) -> Nms {
        match *self {
            Self::Matrix { kernel, sigma, post_threshold, top_k } => {
                let base = match defaults {
                    Nms::Matrix(matrix) => matrix.clone(),
                    _ => MatrixNms::default(),
                };
                Nms::Matrix(MatrixNms {
                    kernel: kernel.unwrap_or(base.kernel),
                    sigma: sigma.unwrap_or(base.sigma),
                    post_threshold: post_threshold.unwrap_or(base.post_threshold),
                    top_k: top_k.map(|top_k| top_k as usize).or(base.top_k),
                    ..base
                })
            }
            Self::Greedy { iou_threshold } => {
                let base = match defaults {
                    Nms::Greedy(greedy) => greedy.clone(),
                    _ => GreedyNms::default(),
                };
                Nms::Greedy(GreedyNms { iou_threshold: iou_threshold.unwrap_or(base.iou_threshold), ..base })
            }
            Self::Soft { kernel, sigma, iou_threshold } => {
                let base = match defaults {
                    Nms::Soft(soft) => soft.clone(),
                    _ => SoftNms::default(),
                };
                Nms::Soft(SoftNms { kernel: soft_kernel(base.kernel, kernel, sigma, iou_threshold), ..base })
            }
        }
    }
}

fn soft_kernel(
    base: SoftKernel,
    kernel: Option<SoftKernelName>,
    sigma: Option<f32>,
    iou_threshold: Option<f32>,
) -> SoftKernel {
    let name = kernel.unwrap_or(match base {
        SoftKernel::Linear { .. } => SoftKernelName::Linear,
        SoftKernel::Gaussian { .. } => SoftKernelName::Gaussian,
    });
    match (name, base) {
        (SoftKernelName::Linear, SoftKernel::Linear { iou_threshold: base }) => {
            SoftKernel::Linear { iou_threshold: iou_threshold.unwrap_or(base) }
        }
        (SoftKernelName::Linear, _) => SoftKernel::Linear { iou_threshold: iou_threshold.unwrap_or(0.3) },
        (SoftKernelName::Gaussian, SoftKernel::Gaussian { sigma: base }) => {
            SoftKernel::Gaussian { sigma: sigma.unwrap_or(base) }
        }
        (SoftKernelName::Gaussian, _) => SoftKernel::Gaussian { sigma: sigma.unwrap_or(0.5) },
    }
}

fn shortened(labels: &[String]) -> Cow<'static, str> {
    const SHOWN: usize = 20;
    let shown = labels.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if labels.len() > SHOWN { format!("{shown}, and {} more", labels.len() - SHOWN).into() } else { shown.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn labels() -> Vec<String> {
        ["bolt", "nut", "gear"].map(String::from).to_vec()
    }

    fn resolve(requested: &RequestedOptions) -> Result<DetectOptions, Error> {
        resolve_over(requested, &DetectOptions::default())
    }

    fn resolve_over(requested: &RequestedOptions, defaults: &DetectOptions) -> Result<DetectOptions, Error> {
        requested.resolve(defaults, &labels(), 500)
    }

    #[test]
    fn nothing_chosen_is_the_models_default() {
        let defaults = DetectOptions { score_threshold: 0.7, max_detections: 9, ..DetectOptions::default() };
        assert_eq!(resolve_over(&RequestedOptions::default(), &defaults).unwrap(), defaults);
    }

    #[test]
    fn a_lower_score_threshold_reaches_the_answer() {
        let requested = RequestedOptions { score_threshold: Some(0.05), ..RequestedOptions::default() };
        let options = resolve(&requested).unwrap();
        assert!(matches!(&options.nms, Nms::Matrix(matrix) if matrix.post_threshold == 0.05));
        let stated = RequestedNms::Matrix { kernel: None, sigma: None, post_threshold: Some(0.2), top_k: None };
        let options = resolve(&RequestedOptions { nms: Some(stated), ..requested }).unwrap();
        assert!(matches!(&options.nms, Nms::Matrix(matrix) if matrix.post_threshold == 0.2));
    }

    #[test]
    fn a_method_keeps_what_the_model_says_of_it() {
        let defaults = DetectOptions {
            nms: Nms::Greedy(GreedyNms { iou_threshold: 0.6, ..GreedyNms::default() }),
            ..DetectOptions::default()
        };
        let greedy = |iou_threshold| RequestedOptions {
            nms: Some(RequestedNms::Greedy { iou_threshold }),
            ..RequestedOptions::default()
        };
        assert!(
            matches!(resolve_over(&greedy(None), &defaults).unwrap().nms, Nms::Greedy(nms) if nms.iou_threshold == 0.6)
        );
        assert!(matches!(resolve(&greedy(Some(0.3))).unwrap().nms, Nms::Greedy(nms) if nms.iou_threshold == 0.3));
    }

    #[test]
    fn classes_are_chosen_by_id_and_label() {
        let requested = RequestedOptions {
            class_ids: vec![2, 0, 2],
            class_labels: vec!["bolt".into()],
            ..RequestedOptions::default()
        };
        assert_eq!(resolve(&requested).unwrap().classes, Some(vec![0, 2]));
    }

    #[test]
    fn what_the_kernel_does_not_use_is_checked_too() {
        let soft = |kernel, sigma, iou_threshold| {
            let nms = RequestedNms::Soft { kernel: Some(kernel), sigma, iou_threshold };
            resolve(&RequestedOptions { nms: Some(nms), ..RequestedOptions::default() })
        };
        for (kernel, sigma, iou_threshold, expected) in [
            (SoftKernelName::Linear, Some(f32::NAN), None, "options.nms.sigma must be above 0 and finite, not NaN"),
            (SoftKernelName::Linear, Some(0.0), Some(0.3), "options.nms.sigma must be above 0 and finite, not 0"),
            (SoftKernelName::Gaussian, None, Some(1.5), "options.nms.iou_threshold must be between 0 and 1, not 1.5"),
        ] {
            let error = soft(kernel, sigma, iou_threshold).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (ErrorCode::InvalidArgument, expected));
        }
        let options = soft(SoftKernelName::Linear, Some(0.5), Some(0.4)).unwrap();
        assert!(matches!(options.nms, Nms::Soft(SoftNms { kernel: SoftKernel::Linear { iou_threshold: 0.4 }, .. })));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let base = RequestedOptions::default;
        let soft = |sigma| RequestedNms::Soft { kernel: None, sigma, iou_threshold: None };
        let cases = [
            (RequestedOptions { score_threshold: Some(f32::NAN), ..base() }, "score_threshold"),
            (RequestedOptions { score_threshold: Some(-0.1), ..base() }, "score_threshold"),
            (RequestedOptions { max_detections: Some(0), ..base() }, "max_detections"),
            (RequestedOptions { max_detections: Some(501), ..base() }, "at most 500"),
            (RequestedOptions { class_ids: vec![3], ..base() }, "3 classes"),
            (RequestedOptions { class_labels: vec!["screw".into()], ..base() }, "bolt, nut, gear"),
            (RequestedOptions { nms: Some(soft(Some(0.0))), ..base() }, "nms.sigma"),
            (
                RequestedOptions { nms: Some(RequestedNms::Greedy { iou_threshold: Some(1.5) }), ..base() },
                "nms.iou_threshold",
            ),
        ];
        for (requested, expected) in cases {
            let error = resolve(&requested).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }
}
