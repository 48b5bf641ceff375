"""From photos to the feature store.

- `photos`: what a photo goes through: decoding, EXIF rotation, sRGB, resize or crop
- `reading`: reading many photos in threads
- `encoder`: ResNet-18, cut into blocks
- `store`: the format of the feature store, and how a row is stored
- `features`: what the stage features does
"""
