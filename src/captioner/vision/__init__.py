"""From photos to the feature store.

- `photos`: decoding a photo, EXIF rotation, sRGB, resize or crop
- `reading`: reading many photos in threads
- `encoder`: ResNet-18, cut into blocks
- `store`: the format of the feature store, and how a row is stored
- `features`: the work of the stage features
"""
