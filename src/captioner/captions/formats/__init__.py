"""Read captions and splits in many forms.

A form is recognised by the content of the file, never by its suffix.

========================  =================================================  ========================================
form                      its marks                                          where people get it
========================  =================================================  ========================================
Flickr8k, official        `Flickr8k.token.txt` and `Flickr_8k.*Images.txt`   the download of `dataset.name: flickr8k`
Kaggle                    header `image,caption`                             Kaggle: adityajn105/flickr8k, /flickr30k
Flickr30k, Kaggle         `image_name| comment_number| comment`, by bars     Kaggle: hsankesara/flickr-image-dataset
                          or commas
Flickr30k CSV             header `raw,sentids,split,filename,img_id`         Hugging Face: nlphuji/flickr30k
.token lines              `1.jpg#0<TAB>text`; also with a comma, a blank or  Flickr8k and its translations
                          `1.jpg#zhc#0 text`
name and caption lines    `name<TAB>text`                                    ROCO
CSV in general            a header with a photo and a caption column         your own
COCO                      {"images": [...], "annotations": [...]}            COCO, NoCaps, VizWiz-Captions
Karpathy                  {"images": [{"filename", "sentences"}]}            caption_datasets.zip, UCM, RSICD, Sydney
JSON rows                 [{"image", "caption"}]                             BLIP, LAVIS, results of COCO's servers
TextCaps                  {"data": [{"image_id", "caption_str"}]}            TextCaps
names to captions         {"1.jpg": ["text", ...]}                           your own
imagefolder               `metadata.jsonl` or `metadata.csv`: `file_name`    Hugging Face datasets
                          and `text`
sidecars                  `1.txt` or `1.caption` beside `1.jpg`              trainers of diffusion models
webdataset                `0.jpg`, `0.txt`, `0.json` in tars                 img2dataset
========================  =================================================  ========================================

- `forms`: the table of forms, each with its marks and its reader
- `flickr8k`, `tables`, `lines`, `json_files`, `sidecars`: the readers
- `json_stream`: reading long JSON a piece at a time
- `columns`: which column is the photo, the caption and the split
- `records`: the types that readers take and return
- `text`: cleaning cells: bytes to characters, HTML entities, lists written as text
- `names`: the photo that a name means
- `splits`: names of splits, lists of photos, drawn splits
- `listing`: the records of all files in one listing
"""

from captioner.captions.formats.flickr8k import CAPTION_FILES
from captioner.captions.formats.listing import NO_PHOTO, Listing, read_listing, read_references
from captioner.captions.formats.records import Columns
from captioner.captions.formats.splits import SPLIT_FILES, draw_splits
from captioner.captions.formats.text import markers_in

__all__ = [
    "CAPTION_FILES",
    "NO_PHOTO",
    "SPLIT_FILES",
    "Columns",
    "Listing",
    "draw_splits",
    "markers_in",
    "read_listing",
    "read_references",
]
