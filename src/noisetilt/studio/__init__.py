"""The local web page `noisetilt studio`: sample, compare and optimise in a browser. It needs gradio (extra `studio`).

`serve` starts it. `page` lays out the page and `*_tab` its tabs; they are the only modules that know gradio. `session`
holds the loaded models, `runs` computes in a worker thread, `views` has what a run shows, `markup` draws that as HTML,
`files` writes and reads the downloads, and `strengths` and `gauge` hold the two rules of the page.
"""
