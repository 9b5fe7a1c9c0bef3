"""Large TCP packets that stand for many segments: the segmentation offload of TUN devices."""
