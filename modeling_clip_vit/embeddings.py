"""From pixels and token ids to the hidden states that the encoder takes.

Shape legend: `B` batch, `L` sequence, `D` hidden, `C` channels.
"""

import torch
from einops.layers.torch import Rearrange
from torch import nn


class ConvPatchEmbedding(nn.Module):
    """One convolution whose stride is its kernel (Dosovitskiy et al., 2021, section 3.1)."""

    def __init__(self, config):
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return self.projection(pixels_BCHW).flatten(2).transpose(1, 2)


class LinearPatchEmbedding(nn.Module):
    """LayerNorm-Linear-LayerNorm over flattened patches (dual patch norm; Kumar et al., 2023)."""

    def __init__(self, config):
        super().__init__()
        size = config.patch_size
        patch_dim = config.num_channels * size**2
        self.to_patches = Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)
        self.norm_patch = nn.LayerNorm(patch_dim, eps=config.layer_norm_eps)
        self.projection = nn.Linear(patch_dim, config.hidden_size)
        self.norm_token = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return self.norm_token(self.projection(self.norm_patch(self.to_patches(pixels_BCHW))))


class ConvStemPatchEmbedding(nn.Module):
    """A stack of small convolutions, then one of kernel 1 (Xiao et al., 2021, section 4).

    It optimises more easily than one big convolution, and sees across the patches' borders.
    """

    def __init__(self, config):
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.num_channels
        for width, kernel, stride in zip(
            config.conv_stem_widths, config.conv_stem_kernels, config.conv_stem_strides, strict=True
        ):
            # This padding makes the output exactly 1/stride of the input.
            padding = (kernel - stride + 1) // 2
            layers += [
                nn.Conv2d(channels, width, kernel, stride, padding, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.stem = nn.Sequential(*layers)
        self.projection = nn.Conv2d(channels, config.hidden_size, kernel_size=1)

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        # Convolutions on few channels run faster on CPU and GPU alike with channels last.
        pixels_BCHW = pixels_BCHW.contiguous(memory_format=torch.channels_last)
        return self.projection(self.stem(pixels_BCHW)).flatten(2).transpose(1, 2)


#: `patch_embedding` -> module from (B, C, height, width) to (B, L, D).
PATCH_EMBEDDINGS: dict[str, type[nn.Module]] = {
    "conv": ConvPatchEmbedding,
    "linear": LinearPatchEmbedding,
    "conv_stem": ConvStemPatchEmbedding,
}


class ClipVitVisionEmbeddings(nn.Module):
    """Patches, an optional class token before them, and learned positions."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.patch_embedding = PATCH_EMBEDDINGS[config.patch_embedding](config)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(config.hidden_size))
        num_positions = config.grid_size**2 + int(config.use_cls_token)
        self.position_embedding = nn.Embedding(num_positions, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(
        self, pixels_BCHW: torch.Tensor, interpolate_pos_encoding: bool = False
    ) -> torch.Tensor:
        """Embed images.

        Args:
            pixels_BCHW: normalised pixels, (B, C, height, width).
            interpolate_pos_encoding: accept another height and width than the configuration's,
                and interpolate the learned positions for it.

        Returns:
            (B, L, D), the class token first.

        Raises:
            ValueError: the images are not of a shape that this model takes.
        """
        height, width = pixels_BCHW.shape[-2:]
        self._check_shape(pixels_BCHW, interpolate_pos_encoding)
        weight = self.position_embedding.weight
        hidden_BLD = self.patch_embedding(pixels_BCHW.to(weight.dtype))
        if self.config.use_cls_token:
            cls_B1D = self.cls_token.expand(hidden_BLD.shape[0], 1, -1)
            hidden_BLD = torch.cat((cls_B1D, hidden_BLD), dim=1)
        size = self.config.image_size
        if (height, width) != (size, size):
            weight = self._interpolate_positions(height, width)
        return self.dropout(hidden_BLD + weight)

    def _check_shape(self, pixels_BCHW: torch.Tensor, interpolate_pos_encoding: bool):
        config = self.config
        if pixels_BCHW.ndim != 4 or pixels_BCHW.shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixels_BCHW.shape)}, but this model takes "
                f"(batch, {config.num_channels}, height, width)"
            )
        height, width = pixels_BCHW.shape[-2:]
        if (height, width) == (config.image_size, config.image_size):
            return
        given = f"the images are {height} x {width} pixels, but this model was made for "
        given += f"{config.image_size} x {config.image_size}"
        if not interpolate_pos_encoding:
            raise ValueError(f"{given}: resize them, or pass interpolate_pos_encoding=True")
        if config.pooling == "flatten":
            raise ValueError(f"{given}, and pooling='flatten' fixes the number of patches")
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(f"{given}; other sizes must be multiples of {config.patch_size}")

    def _interpolate_positions(self, height: int, width: int) -> torch.Tensor:
        """Learned positions for a grid of another size, (L, D)."""
        weight = self.position_embedding.weight
        extra = int(self.config.use_cls_token)
        grid = self.config.grid_size
        grid_1DHW = weight[extra:].unflatten(0, (grid, grid)).permute(2, 0, 1).unsqueeze(0)
        # Interpolate in float32: bicubic weights in half precision shift the grid.
        grid_1DHW = nn.functional.interpolate(
            grid_1DHW.float(),
            size=(height // self.config.patch_size, width // self.config.patch_size),
            mode="bicubic",
            align_corners=False,
        )
        positions_LD = grid_1DHW.squeeze(0).flatten(1).t().to(weight.dtype)
        return torch.cat((weight[:extra], positions_LD))


class ClipVitTextEmbeddings(nn.Module):
    """Tokens and learned positions."""

    def __init__(self, config):
        super().__init__()
        self.token_embedding: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(
        self,
        input_ids_BL: torch.Tensor | None = None,
        attention_mask_BL: torch.Tensor | None = None,
        position_ids_BL: torch.Tensor | None = None,
        inputs_embeds_BLD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed texts, (B, L) token ids to (B, L, D).

        Without `position_ids_BL`, positions count the tokens that `attention_mask_BL` keeps, so
        that padding on the left changes a text's embedding as little as padding on the right.

        Raises:
            ValueError: a text is longer than the learned positions.
        """
        tokens_BLD = inputs_embeds_BLD
        if tokens_BLD is None:
            tokens_BLD = self.token_embedding(input_ids_BL)
        length, positions = tokens_BLD.shape[1], self.position_embedding.num_embeddings
        if position_ids_BL is None and length > positions:
            raise ValueError(
                f"the text has {length} tokens, but this model has max_position_embeddings="
                f"{positions}: truncate it (truncation=True, max_length={positions})"
            )
        if position_ids_BL is None:
            position_ids_BL = torch.arange(length, device=tokens_BLD.device).unsqueeze(0)
            if attention_mask_BL is not None:
                position_ids_BL = (attention_mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)
        return self.dropout(tokens_BLD + self.position_embedding(position_ids_BL))
