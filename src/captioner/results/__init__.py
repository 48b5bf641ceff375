"""What a run leaves for people: scores, pictures, the report and the model card.

- `evaluate`: what the stages validate and evaluate do
- `intervals`: reading the bootstrap intervals for report and card
- `pictures`: what the stage pictures does: good, typical and bad test images
- `drawing`: text of any script on a picture
- `report`: what the stage report does; its page is report.html, report.css and report.js
- `charts`: line charts for the report
- `published`: published figures beside which the report sets a run
- `card`: what the stage card does; its template is card.md.j2
"""
