"""Why a TTL is what it is, and what others would do: `dub5 policy explain`.

    in_force    a policy, and its class as the operator has learnt it
    cluster     one object, read from the Kubernetes API
    reading     what is known of a class
    text        all of it as text for people
    plot        the candidates, drawn; needs the extra `dub5[loadtest]`

Nothing is published, stored or decided here.
"""
