"""The simulator: the broker's core and the journal's real code against a hostile disk and network.

make sim                                      new seeds for half a minute
python -m tests.simulation --seed 17 --trace  that seed again, told step by step
python -m tests.simulation --cuts 1000000     a campaign
python -m tests.simulation --links            several brokers, and links between them
"""
