"""A frozen Segment Anything Model: encode a batch of images once, decode prompts on it as often as needed.

It keeps no image between calls. One ViT-B image at 1024 x 1024: 3 MB of uint8 pixels in, 4 MB of features
(256 x 64 x 64 float32) out; a decoder call adds 256 x 256 logits for each mask.

"Model frame" is the resized image before padding; "original" the photo itself.
"""

from collections.abc import Sequence

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor
from torch.nn import functional as F

from persam_ray.compute.batch_norms import fold_batch_norms
from persam_ray.compute.packed_layers import pack_within
from persam_ray.compute.precision import Precision, compute_dtype
from persam_ray.compute.transfers import upload
from persam_ray.images import resized_size_hw
from persam_ray.sam.build import build_modules
from persam_ray.sam.decoder import predict_masks
from persam_ray.sam.folded_decoder import FoldedDecoder
from persam_ray.sam.folded_vit import FoldedViT
from persam_ray.sam.prompts import embed_prompts
from persam_ray.types import ByteArray, Checkpoint, Frame, MaskCandidates, Points

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
LOGITS_PER_CELL = 4  # the decoder's masks have four times the resolution of the feature grid


class Sam:
    """Segment Anything with frozen weights.

    Args:
        checkpoint: The weights; the architecture is read from them.
        device: Where to compute; `cuda`, `cpu`, ...
        precision: Type that the work at each image cell is done in; prompt tokens and scores are always float32. In
            float32 the numbers are the official ones. `auto` is bfloat16 where that is faster and masks stay the same;
            convolutional encoders stay in float32, because in bfloat16 masks agree with float32's to 0.92 only,
            against 0.98 (`benchmarks/precision.py`).

    Attributes:
        image_size_px: Side of the square input.
        device: Where the modules are.
        encoder_dtype: What the encoder computes in: its features are float32 tensors of that type's values.

    Raises:
        CheckpointError: The checkpoint is of no known layout.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", precision: Precision = "auto"
    ) -> None:
        modules = build_modules(checkpoint)
        self.device = torch.device(device)
        self.image_size_px = modules.image_size_px
        self._dtype = compute_dtype(precision, self.device)
        self._image_encoder = modules.image_encoder.to(self.device)
        self.encoder_dtype = self._dtype
        if self._dtype != torch.float32 and isinstance(self._image_encoder, ImageEncoderViT):
            self._image_encoder = FoldedViT(self._image_encoder.to(self._dtype))
        elif self._dtype != torch.float32:
            self.encoder_dtype = torch.float32 if precision == "auto" else self._dtype
            folded = fold_batch_norms(self._image_encoder).to(self.encoder_dtype)
            self._image_encoder = pack_within(folded, self._trial_image())
        self._prompt_encoder = modules.prompt_encoder.to(self.device)
        self._mask_decoder = modules.mask_decoder.to(self.device)
        self._image_pe_1chw = self._prompt_encoder.get_dense_pe()
        self._folded_decoder: FoldedDecoder | None = None  # in float32 the official numbers count, to the bit
        if self._dtype != torch.float32:
            self._folded_decoder = FoldedDecoder(self._mask_decoder, self._image_pe_1chw, self._dtype)
        self._mean_311, self._std_311 = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD)
        )

    def _trial_image(self) -> Tensor:
        """Return input for the encoder, of many different numbers."""
        size_1chw = (1, 3, self.image_size_px, self.image_size_px)
        return torch.linspace(-1, 1, 3 * self.image_size_px**2).view(size_1chw).to(self.device, self.encoder_dtype)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the feature grid."""
        height, width = self._image_pe_1chw.shape[-2:]
        return height, width

    @property
    def is_exact(self) -> bool:
        """Whether all of it computes in float32, so that the numbers are the official ones."""
        return self._dtype == torch.float32

    @property
    def encoding(self) -> str:
        """What features follow from beside weights and pixels: where they are computed and in which types.

        The second type is that of the other modules: where it is not float32, the encoder is a folded one.
        """
        return f"{self.device.type} {self.encoder_dtype} {self._dtype}"

    def frame(self, original_hw: tuple[int, int]) -> Frame:
        """Return where an image of that size lies in the model's input."""
        return Frame(original_hw, resized_size_hw(original_hw, self.image_size_px))

    def normalize(self, resized_hw3: ByteArray) -> Tensor:
        """Return uint8 RGB of the model frame as SAM's input (3, s, s): normalised, then padded with zeros."""
        pixels = upload(resized_hw3, self.device).permute(2, 0, 1)
        height, width = pixels.shape[-2:]
        normal = (pixels - self._mean_311) / self._std_311
        return F.pad(normal, (0, self.image_size_px - width, 0, self.image_size_px - height))

    @torch.inference_mode()
    def encode(self, resized: Sequence[ByteArray]) -> Tensor:
        """Encode images.

        Args:
            resized: Each (h, w, 3) uint8 RGB with the longest side at the model's image size.

        Returns:
            Features (b, c, h, w), float32.
        """
        batch = torch.stack([self.normalize(image_hw3) for image_hw3 in resized]).to(self.encoder_dtype)
        features: Tensor = self._image_encoder(batch)
        return features.float()

    @torch.inference_mode()
    def decode(
        self,
        features_bchw: Tensor,
        points: Points,
        *,
        box_n4: Tensor | None = None,
        mask_logits_nhw: Tensor | None = None,
        guidance_nhw: Tensor | None = None,
        embedding_nc: Tensor | None = None,
        multimask: bool,
    ) -> MaskCandidates:
        """Decode prompts on a batch of images: as many on each, those of the first image first.

        Args:
            features_bchw: From `encode`; b divides the number of prompts.
            points: Some points for each prompt.
            box_n4: x_min, y_min, x_max, y_max in pixels of the model frame.
            mask_logits_nhw: Low-resolution logits of an earlier call, as a mask prompt.
            guidance_nhw: Target-guided attention (PerSAM), in [0, 1], over the feature grid.
            embedding_nc: Target-semantic prompt (PerSAM).
            multimask: Return the three scales rather than the single mask.
        """
        sparse_nlc, dense_nchw = embed_prompts(self._prompt_encoder, points, box_n4, mask_logits_nhw)
        targets = len(sparse_nlc) // len(features_bchw)
        image_embedding_nchw = features_bchw.repeat_interleave(targets, dim=0) + dense_nchw
        if self._folded_decoder is None:
            logits_nkhw, iou_nk = predict_masks(
                self._mask_decoder,
                image_embedding_nchw,
                self._image_pe_1chw,
                sparse_nlc,
                guidance_nhw=guidance_nhw,
                embedding_nc=embedding_nc,
                multimask=multimask,
            )
        else:
            logits_nkhw, iou_nk = self._folded_decoder(
                image_embedding_nchw,
                sparse_nlc,
                guidance_nhw=guidance_nhw,
                embedding_nc=embedding_nc,
                multimask=multimask,
            )
        return MaskCandidates(logits_nkhw, iou_nk)

    @torch.inference_mode()
    def to_original(self, low_khw: Tensor, frame: Frame) -> Tensor:
        """Bring low-resolution maps (logits, similarity) to the original image: upsample, crop the padding, resize.

        Args:
            low_khw: (k, h, w) over the padded model frame.
            frame: The image's place in the model frame.

        Returns:
            (k, H, W) in the original frame, float32.
        """
        size = (self.image_size_px, self.image_size_px)
        full = F.interpolate(low_khw[None], size, mode="bilinear", align_corners=False)
        height, width = frame.resized_hw
        cropped = full[..., :height, :width]
        return F.interpolate(cropped, frame.original_hw, mode="bilinear", align_corners=False)[0]
