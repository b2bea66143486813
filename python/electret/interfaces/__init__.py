"""Programs that run electret's models: one module per host, each an optional extra.

They translate arrays and units, and call `electret.calculator`; hosts are imported where they are used.
"""
