"""The face in IPython and Jupyter: magics, names in the notebook, cards, prompts. Stands on client/ and the ground
floor, never imports the engine. `%load_ext xec_forward` enters by `extension`; nobody else imports this room.

    extension   load and unload: the magics, the end of the kernel, the engine warmed in the background
    magics      %forward, %k8s_forward and their cell forms; expansion (of $names), interruption
    cell_scope  tunnels that live for the code of a cell
    openings    what a line opens, reuses, replaces
    namespace   names and environment variables in the kernel, taken back on close
    live        what a waiting cell shows
    prompts     questions to the person in front of the notebook
    input_field questions below a cell that has ended: the panel's
    doctor      an examination in one display
    explain     what a tunnel had to do with a cell's error
    configuration  a default for each option, by traitlets
    completion  what Tab offers: place (where the cursor is), words, hosts, cluster
    panel       %forward --panel: rows, form, press (a button)
    bridge      what JupyterLab's sidebar asks over the control channel, and is told; bridge_actions: its buttons

What `%load_ext` imports of these (extension, magics, bridge, cell_scope, completion) loads none of the others: it is
to cost nothing that can be felt.
"""
