"""The sources of data: downloads, drawn pictures, your own folder, weights, models.

- `download`: the Flickr8k archives and the ImageNet weights, verified by checksum
- `shapes`: the built-in dataset of drawn pictures
- `own_data`: your own folder, packed into the archives that later stages read
- `weights`: the state dict of ResNet-18, and the model that training starts from
- `models`: model files from a path, the Hub or an address
- `archives`: reading zip archives in place
"""
