"""Images: files of many kinds to pixels, processor, augmentation and encoders."""
