"""How fast, how accurate and how dear a version's engines are, beside the champion's: one page, one document.

`document` gathers it from the receipts, `page` and `plots` show it. All pure; MLflow keeps both files with the
version, and the next release reads the document back to compare itself.
"""
