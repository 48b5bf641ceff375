"""The results of a run: scores, pictures, the report and the model card.

- `evaluate`: the work of the stages validate and evaluate
- `intervals`: reading the bootstrap intervals for report and card
- `pictures`: the work of the stage pictures: good, typical and bad test images
- `drawing`: text of any script on a picture
- `report`: the work of the stage report; its page is report.html, report.css and report.js
- `charts`: line charts for the report
- `published`: published scores, for comparison in the report
- `card`: the work of the stage card; its template is card.md.j2
"""
