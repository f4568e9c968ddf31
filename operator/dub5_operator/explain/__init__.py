"""Why a TTL is what it is, and what it would be: `dub5 policy explain` and `dub5 policy plan`.

    in_force    a policy, and its class as the operator has learnt it
    cluster     one object, read from the Kubernetes API
    recording   classes as they show themselves for a while
    options     a policy as options of the command line say it
    reading     what both share: what is known of a class
    text        all of it as text for people
    plot        the candidates, drawn; needs the extra `dub5[loadtest]`

Nothing is published, stored or decided here.
"""
