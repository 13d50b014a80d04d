"""What belongs together: targets in the forms that the losses take.

Shape legend: `I` images, `T` texts, over all processes.
"""

import torch

from .gather import gather_with_gradient

#: Either the ids of images and texts, where equal ids belong together, or a matrix (I, T).
Targets = tuple[torch.Tensor, torch.Tensor] | torch.Tensor


def match_matrix(targets: Targets | None, num_images: int, device: torch.device) -> torch.Tensor:
    """Which image belongs to which text, float (I, T), over all processes.

    Args:
        targets: this process's ids `(image_ids (B_image,), text_ids (B_text,))`; or a matrix that
            holds the whole answer already, which only a single process can give; or None: image i
            belongs to text i.
        num_images: number I of images over all processes.
        device: where to put the matrix.
    """
    if targets is None:
        return torch.eye(num_images, device=device)
    if isinstance(targets, torch.Tensor):
        return targets.to(device, torch.float32)
    image_ids, text_ids = (gather_with_gradient(ids.to(device)) for ids in targets)
    return (image_ids[:, None] == text_ids[None, :]).float()
