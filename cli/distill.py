import click
@click.command()
def distill() -> None:
    """x"""
