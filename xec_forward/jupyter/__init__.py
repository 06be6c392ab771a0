"""The face in IPython and Jupyter: magics, names in the notebook, cards, prompts. Stands on client/ and the ground
floor, never imports the engine. `%load_ext xec_forward` enters by `extension`; nobody else imports this room.

    extension   load and unload: the magics, the end of the kernel, the engine warmed in the background
    magics      %forward and the list form of %%forward
    openings    what a line opens, reuses, replaces
    namespace   names and environment variables in the kernel, taken back on close
    live        what a waiting cell shows
    prompts     questions to the person in front of the notebook

At import `extension` and `magics` load none of the others: `%load_ext` is to cost nothing that can be felt.
"""
