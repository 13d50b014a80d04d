"""From pixels and token ids to the hidden states that the encoder takes.

Images have one of two forms: (B, channels, height, width), all of one shape; or as in Transformers'
Siglip2, flattened patches of images of any shapes, (B, L, patch_size * patch_size * channels),
padded to the longest, with a mask of the patches and the numbers of rows and columns of each image.

Shape legend: `B` batch, `L` sequence, `D` hidden (or other features, such as channels), `N` patches
of all images, `X` and `Y` columns and rows, `E` half a head.
"""

from collections.abc import Callable
from typing import cast

import torch
from einops.layers.torch import Rearrange
from torch import nn
from transformers import initialization as init

from .configuration_clip_vit import ClipVitTextConfig, ClipVitVisionConfig, TowerConfig
from .normalization import ImageBatchNorm, build_norm


class PatchEmbedding(nn.Module):
    """Embeds the patches of images: (B, channels, height, width) to (B, L, D)."""

    def embed_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """Embed patches that are already cut out, flattened with channels last: (B, L, D).

        Raises:
            ValueError: this embedding looks across the borders of patches.
        """
        raise ValueError(
            "this patch_embedding takes whole images, not single patches: use conv or linear"
        )


class ConvPatchEmbedding(PatchEmbedding):
    """One convolution whose stride is its kernel (Dosovitskiy et al., 2021, section 3.1)."""

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projection(pixels).flatten(2).transpose(1, 2)

    def embed_patches(self, patches: torch.Tensor) -> torch.Tensor:
        size = self.projection.kernel_size
        patches_NDYX = patches.flatten(0, 1).unflatten(-1, (*size, -1)).permute(0, 3, 1, 2)
        return self.projection(patches_NDYX).flatten(1).unflatten(0, patches.shape[:2])


class LinearPatchEmbedding(PatchEmbedding):
    """LayerNorm-Linear-LayerNorm over flattened patches (dual patch norm; Kumar et al., 2023)."""

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__()
        size = config.patch_size
        patch_dim = config.num_channels * size**2
        self.to_patches = Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)
        self.norm_patch = nn.LayerNorm(patch_dim, eps=config.layer_norm_eps)
        self.projection = nn.Linear(patch_dim, config.hidden_size, bias=config.patch_bias)
        self.norm_token = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.embed_patches(self.to_patches(pixels))

    def embed_patches(self, patches: torch.Tensor) -> torch.Tensor:
        return self.norm_token(self.projection(self.norm_patch(patches)))


class ConvStemPatchEmbedding(PatchEmbedding):
    """A stack of small convolutions, then one of kernel 1 (Xiao et al., 2021, section 4).

    It optimises more easily than one big convolution, and sees across the patches' borders.
    """

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.num_channels
        widths, kernels = config.conv_stem_widths, config.conv_stem_kernels
        strides = config.conv_stem_strides
        # The configuration fills them in.
        for width, kernel, stride in zip(widths or (), kernels or (), strides or (), strict=True):
            # This padding makes the output exactly 1/stride of the input.
            padding = (kernel - stride + 1) // 2
            layers += [
                nn.Conv2d(channels, width, kernel, stride, padding, bias=False),
                ImageBatchNorm(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.stem = nn.Sequential(*layers)
        self.projection = nn.Conv2d(channels, config.hidden_size, kernel_size=1)

    def initialize(self):
        """He initialisation of the convolutions before a ReLU (He et al., 2015, section 2.2)."""
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d):
                init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # Convolutions on few channels are faster with channels last, on CPUs and GPUs.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.projection(self.stem(pixels)).flatten(2).transpose(1, 2)


#: `patch_embedding` -> the module, built with the configuration.
PATCH_EMBEDDINGS: dict[str, Callable[[ClipVitVisionConfig], PatchEmbedding]] = {
    "conv": ConvPatchEmbedding,
    "linear": LinearPatchEmbedding,
    "conv_stem": ConvStemPatchEmbedding,
}


class ClipVitVisionEmbeddings(nn.Module):
    """Patches with positions, and before them a class token and registers, if configured.

    Registers are learned tokens for the model's own use (Darcet et al., 2024, section 2.2).
    """

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = PATCH_EMBEDDINGS[config.patch_embedding](config)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(config.hidden_size))
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(
                torch.zeros(config.num_register_tokens, config.hidden_size)
            )
        if config.position_embedding_type == "learned":
            num_positions = config.grid_size**2 + int(bool(config.use_cls_token))
            self.position_embedding = nn.Embedding(num_positions, config.hidden_size)
        if config.embedding_norm:
            self.norm = build_norm(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        # A run may stop dropping patches before its end, without another configuration.
        self.patch_dropout = config.patch_dropout

    def initialize(self):
        """Initialise class token and registers like other embeddings."""
        for name in ("cls_token", "register_tokens"):
            if hasattr(self, name):
                init.normal_(getattr(self, name), std=self.config.initializer_range)

    def forward(
        self,
        pixels: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        mask: torch.Tensor | None = None,
        shapes: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Embed images.

        Args:
            pixels: normalised pixels (B, channels, height, width), or flattened patches.
            interpolate_pos_encoding: accept another height and width than the configuration's,
                and interpolate the positions for it. Patches are always interpolated.
            mask: 1 for a patch, 0 for padding, (B, L); with patches only.
            shapes: rows and columns of patches in each image, (B, 2); with patches only.

        Returns:
            Hidden states (B, L, D): the class token, then registers, then patches; the place of
            each token in the grid that the model was made for, (B or 1, L, 2), which is (0, 0) for
            class token and registers; and the mask of all tokens, or None if there is no padding.

        Raises:
            ValueError: the images are not of a shape that this model takes.
        """
        dtype = next(self.patch_embedding.parameters()).dtype
        rows: int | torch.Tensor
        columns: int | torch.Tensor
        if pixels.ndim == 3:
            rows, columns = self._check_patches(pixels, mask, shapes).split(1, dim=1)
            hidden_BLD = self.patch_embedding.embed_patches(pixels.to(dtype))
            is_native = False
        else:
            self._check_shape(pixels, interpolate_pos_encoding)
            hidden_BLD = self.patch_embedding(pixels.to(dtype))
            rows, columns = (side // self.config.patch_size for side in pixels.shape[-2:])
            is_native = bool(rows == columns == self.config.grid_size)
        index_1L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device).unsqueeze(0)
        places_BL2 = patch_places(index_1L, rows, columns, self.config.grid_size)
        spacing_B12 = None
        if not is_native:
            spacing_B12 = patch_spacing(places_BL2, rows, columns, self.config.grid_size)
        hidden_BLD = self._add_positions(hidden_BLD, places_BL2, spacing_B12, is_native)
        if self.training and self.patch_dropout > 0:
            hidden_BLD, places_BL2, mask = drop_patches(
                hidden_BLD, places_BL2, mask, self.patch_dropout
            )
        hidden_BLD, places_BL2, mask = self._prepend(hidden_BLD, places_BL2, mask)
        if self.config.embedding_norm:
            hidden_BLD = self.norm(hidden_BLD, mask)
        return self.dropout(hidden_BLD), places_BL2, mask

    def _add_positions(
        self,
        hidden_BLD: torch.Tensor,
        places_BL2: torch.Tensor,
        spacing_B12: torch.Tensor | None,
        is_native: bool,
    ) -> torch.Tensor:
        """Add learned or sine-cosine positions to patches; rotary ones act in the attention."""
        kind, size = self.config.position_embedding_type, self.config.grid_size
        if kind == "sincos":
            # Columns before rows, as in the paper.
            positions_BLD = sine_cosine(places_BL2.flip(-1), hidden_BLD.shape[-1])
            return hidden_BLD + positions_BLD.to(hidden_BLD.dtype)
        if kind != "learned":
            return hidden_BLD
        first, count = int(bool(self.config.use_cls_token)), self.config.grid_size**2
        # Call the module instead of reading its weight: offloaded weights are loaded by the call.
        weight_LD = self.position_embedding(
            torch.arange(first, first + count, device=hidden_BLD.device)
        )
        if is_native:
            return hidden_BLD + weight_LD
        # In float32: weights in half precision shift the grid.
        grid_YXD = weight_LD.float().unflatten(0, (size, size))
        interpolate = POSITION_INTERPOLATIONS[self.config.position_interpolation]
        return hidden_BLD + interpolate(grid_YXD, places_BL2, spacing_B12).to(hidden_BLD.dtype)

    def _prepend(
        self, hidden_BLD: torch.Tensor, places_BL2: torch.Tensor, mask_BL: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Put class token and registers before the patches."""
        prefix = []
        if self.config.use_cls_token:
            cls_D: torch.Tensor = self.cls_token
            if self.config.position_embedding_type == "learned":
                first = torch.zeros((), dtype=torch.long, device=hidden_BLD.device)
                cls_D = cls_D + self.position_embedding(first)
            prefix.append(cls_D.unsqueeze(0))
        if self.config.num_register_tokens:
            prefix.append(self.register_tokens)
        if not prefix:
            return hidden_BLD, places_BL2, mask_BL
        batch = hidden_BLD.shape[0]  # not len(): an exporter would take it for a constant
        prefix_BLD = torch.cat(prefix).to(hidden_BLD.dtype).expand(batch, -1, -1)
        count = prefix_BLD.shape[1]
        if mask_BL is not None:
            mask_BL = nn.functional.pad(mask_BL, (count, 0), value=1)
        places_BL2 = nn.functional.pad(places_BL2, (0, 0, count, 0))
        return torch.cat((prefix_BLD, hidden_BLD), dim=1), places_BL2, mask_BL

    def _check_shape(self, pixels_BDYX: torch.Tensor, interpolate_pos_encoding: bool):
        config = self.config
        if pixels_BDYX.ndim != 4 or pixels_BDYX.shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixels_BDYX.shape)}, but this model takes "
                f"(batch, {config.num_channels}, height, width)"
            )
        height, width = pixels_BDYX.shape[-2:]
        if (height, width) == (config.image_size, config.image_size):
            return
        problem = (
            f"the images are {height} x {width} pixels, but this model was made for "
            f"{config.image_size} x {config.image_size}"
        )
        if not interpolate_pos_encoding:
            raise ValueError(f"{problem}: resize them, or pass interpolate_pos_encoding=True")
        if config.pooling == "flatten":
            raise ValueError(f"{problem}, and pooling='flatten' fixes the number of patches")
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(f"{problem}; other sizes must be multiples of {config.patch_size}")

    def _check_patches(
        self,
        patches_BLD: torch.Tensor,
        mask_BL: torch.Tensor | None,
        shapes_B2: torch.Tensor | None,
    ) -> torch.Tensor:
        config = self.config
        size, channels = config.patch_size, config.num_channels
        if patches_BLD.shape[-1] != channels * size**2:
            raise ValueError(
                f"pixel_values has shape {tuple(patches_BLD.shape)}, but a patch of this model has "
                f"{channels * size**2} numbers ({size} x {size} x {channels})"
            )
        if mask_BL is None or shapes_B2 is None:
            raise ValueError(
                "pixel_values of shape (batch, patches, numbers) need pixel_attention_mask and "
                "spatial_shapes"
            )
        if config.pooling == "flatten":
            raise ValueError("pooling='flatten' fixes the number of patches: pass whole images")
        return shapes_B2


def patch_places(
    index: torch.Tensor, rows: int | torch.Tensor, columns: int | torch.Tensor, grid_size: int
) -> torch.Tensor:
    """Places of patches in the grid that a model was made for, as (row, column): (B, L, 2).

    An image with another number of rows or columns is stretched over that grid, centre to centre;
    an image with the grid's own shape has whole numbers.

    Args:
        index: numbers of the patches, row by row, (1, L).
        rows, columns: numbers of each image, (B, 1); or integers that hold for all images.
        grid_size: side of the grid.
    """
    row_BL = (index // columns + 0.5) * (grid_size / rows) - 0.5
    column_BL = (index % columns + 0.5) * (grid_size / columns) - 0.5
    return torch.stack((row_BL, column_BL), dim=-1)


def patch_spacing(
    places: torch.Tensor, rows: int | torch.Tensor, columns: int | torch.Tensor, grid_size: int
) -> torch.Tensor:
    """How far patches are apart in the grid that a model was made for: (B or 1, 1, 2).

    Arguments are those and the result of `patch_places`.
    """
    if isinstance(rows, torch.Tensor) and isinstance(columns, torch.Tensor):
        return grid_size / torch.stack((rows, columns), dim=-1)
    # Filled on the device: a copy of numbers would wait for it.
    numbers = cast(tuple[int, int], (rows, columns))
    spacings = [places.new_full((1, 1), grid_size / number) for number in numbers]
    return torch.stack(spacings, dim=-1)


def interpolate_bicubic(
    grid: torch.Tensor, places: torch.Tensor, spacing: torch.Tensor
) -> torch.Tensor:
    """Positions at places between those of a grid, by bicubic interpolation: (B, L, D).

    Args:
        grid: learned positions, (side, side, D).
        places: row and column of each patch in that grid, (B, L, 2).
        spacing: how far they are apart; not read.
    """
    size = grid.shape[0]
    # grid_sample has (x, y), from -1 at the outer edge of the first cell to 1.
    places_BL12 = (places.flip(-1).unsqueeze(2) + 0.5) * (2 / size) - 1
    positions_BDL1 = nn.functional.grid_sample(
        grid.permute(2, 0, 1).unsqueeze(0).expand(places.shape[0], -1, -1, -1),
        places_BL12,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return positions_BDL1.squeeze(-1).transpose(1, 2)


def interpolate_antialiased(
    grid: torch.Tensor, places: torch.Tensor, spacing: torch.Tensor
) -> torch.Tensor:
    """The same by bilinear interpolation, averaged over the spacing where that is more than one.

    It is what `torch.nn.functional.interpolate` makes with `mode="bilinear", antialias=True`, for
    images of any shapes at once.
    """
    size = grid.shape[0]
    # The places of padding are outside, and would have no weight at all.
    centers_BL21 = places.clamp(max=size - 0.5).unsqueeze(-1)
    steps = torch.arange(size, device=grid.device, dtype=grid.dtype)
    distances = (steps - centers_BL21).abs() / spacing.clamp(min=1).unsqueeze(-1)
    weights = (1 - distances).clamp(min=0)
    rows_BLY, columns_BLX = (weights / weights.sum(dim=-1, keepdim=True)).unbind(dim=2)
    products = rows_BLY.unsqueeze(3) * columns_BLX.unsqueeze(2)
    return products.flatten(2) @ grid.flatten(0, 1)


#: `position_interpolation` -> the function.
POSITION_INTERPOLATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "bicubic": interpolate_bicubic,
    "antialiased": interpolate_antialiased,
}


def drop_patches(
    hidden_states: torch.Tensor,
    places: torch.Tensor,
    mask: torch.Tensor | None,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keep a random part of each image's patches (Li et al., 2023, section 3.1).

    Padding is dropped first. Arguments are what `ClipVitVisionEmbeddings.forward` returns, of
    patches alone, and the share of them to drop.
    """
    batch, length, _ = hidden_states.shape
    order_BL = torch.rand(batch, length, device=hidden_states.device)
    if mask is not None:
        order_BL = order_BL.masked_fill(~mask.bool(), -1.0)
    kept_BL = order_BL.topk(max(1, round(length * (1 - rate))), dim=1).indices

    def take(values: torch.Tensor) -> torch.Tensor:
        return values.expand(batch, -1, -1).gather(
            1, kept_BL.unsqueeze(-1).expand(-1, -1, values.shape[-1])
        )

    if mask is not None:
        mask = mask.gather(1, kept_BL)
    return take(hidden_states), take(places), mask


def sine_cosine(places: torch.Tensor, size: int, theta: float = 10000.0) -> torch.Tensor:
    """Fixed positions for each axis side by side, sines then cosines (Beyer et al., 2022).

    Args:
        places: position on each axis, (..., axes).
        size: number D of features, a multiple of twice the number of axes.

    Returns:
        (..., D), float32.
    """
    axes = places.shape[-1]
    count = size // (2 * axes)
    steps = torch.arange(count, device=places.device, dtype=torch.float32)
    angles = places.float().unsqueeze(-1) * theta ** (-steps / max(count - 1, 1))
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def rotary_angles(places: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
    """Angles of rotary positions (Su et al., 2021, section 3.2), an equal share for each axis.

    Args:
        places: position on each axis, (..., axes).
        head_dim: size A of a head, a multiple of twice the number of axes.
        theta: base of the geometric series of frequencies.

    Returns:
        (..., A / 2), float32.
    """
    count = head_dim // (2 * places.shape[-1])
    steps = torch.arange(count, device=places.device, dtype=torch.float32)
    return (places.float().unsqueeze(-1) * theta ** (-steps / count)).flatten(-2)


def build_rotation(
    config: TowerConfig, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Cosine and sine of rotary positions, once for all blocks.

    Args:
        places: position of each token on each axis, (B or 1, L, axes).

    Returns:
        Each (B or 1, 1, L, A / 2), the same for every head; or None if positions are not rotary.
    """
    if config.position_embedding_type != "rope":
        return None
    assert config.head_dim  # the configuration fills it in
    angles_B1LE = rotary_angles(places, config.head_dim, config.rope_theta).unsqueeze(1)
    return angles_B1LE.cos(), angles_B1LE.sin()


def cut_texts(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, longest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncate texts as a tokenizer does, which keeps the last token, the end of the text.

    Args:
        input_ids: token ids, (B, L).
        attention_mask: 1 for a token, 0 for padding on either side, (B, L); None if there is none.
        longest: number of tokens that a text may have.

    Returns:
        Token ids and mask, (B, longest), padded on the right.
    """
    mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    # The places of the tokens in order, and behind them those of the padding.
    places_BL = (mask_BL == 0).long().argsort(dim=1, stable=True)
    count_B1 = mask_BL.long().sum(dim=1, keepdim=True)
    last_B1 = places_BL.gather(1, (count_B1 - 1).clamp(min=0))
    kept_BL = places_BL[:, :longest].clone()
    kept_BL[:, -1:] = torch.where(count_B1 > longest, last_B1, kept_BL[:, -1:])
    return input_ids.gather(1, kept_BL), mask_BL.gather(1, kept_BL)


class ClipVitTextEmbeddings(nn.Module):
    """Tokens with positions."""

    def __init__(self, config: ClipVitTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding_type == "learned":
            self.position_embedding = nn.Embedding(
                config.max_position_embeddings, config.hidden_size
            )
        if config.embedding_norm:
            self.norm = build_norm(config)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed texts.

        Without `position_ids`, positions count the tokens that `attention_mask` keeps, so that
        padding on the left, like padding on the right, does not change a text's embedding.

        Args:
            input_ids: token ids, (B, L).
            attention_mask: 1 for a token, 0 for padding, (B, L); None if there is no padding.
            position_ids: positions, (B, L).

        Returns:
            Hidden states (B, L, D) and positions (B or 1, L).

        Raises:
            ValueError: a text is longer than the learned positions, or has an unknown token.
        """
        self._check_ids(input_ids)
        tokens_BLD = self.token_embedding(input_ids)
        length, longest = tokens_BLD.shape[1], self.config.max_position_embeddings
        kind = self.config.position_embedding_type
        if kind == "learned" and position_ids is None and length > longest:
            raise ValueError(
                f"the text has {length} tokens, but this model has max_position_embeddings="
                f"{longest}: truncate it (truncation=True, max_length={longest})"
            )
        if position_ids is None:
            position_ids = torch.arange(length, device=tokens_BLD.device).unsqueeze(0)
            if attention_mask is not None:
                position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        if kind == "learned":
            tokens_BLD = tokens_BLD + self.position_embedding(position_ids)
        elif kind == "sincos":
            positions_BLD = sine_cosine(position_ids.unsqueeze(-1), tokens_BLD.shape[-1])
            tokens_BLD = tokens_BLD + positions_BLD.to(tokens_BLD.dtype)
        if self.config.embedding_norm:
            tokens_BLD = self.norm(tokens_BLD, attention_mask)
        return self.dropout(tokens_BLD), position_ids

    def _check_ids(self, input_ids_BL: torch.Tensor):
        # On an accelerator, the check would synchronise; when compiling, it would break the graph.
        if input_ids_BL.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if input_ids_BL.numel() == 0:
            return
        smallest, largest = (int(end) for end in input_ids_BL.aminmax())
        size = self.token_embedding.num_embeddings
        if smallest < 0 or largest >= size:
            raise ValueError(
                f"input_ids has token {smallest if smallest < 0 else largest}, but this model "
                f"knows tokens 0 to {size - 1}: use its own tokenizer"
            )
