"""What every wing stands on; free of torch, zarr and OpenSlide."""
